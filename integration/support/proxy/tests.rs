//! The proxy before a server that answers each line with the same line.

use std::io::{BufRead, BufReader};

use super::*;
use crate::support::eventually;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of lines, for as long as the process lives; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if writer.write_all(format!("{line}\n").as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn of(proxy: &Proxy) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn ask(&mut self, text: &str) -> io::Result<String> {
        self.send(&format!("{text}\n"))?;
        self.hear()
    }
}

#[test]
fn round_trips_are_requests_that_follow_an_answer() {
    let proxy = Proxy::counting(echo());
    let mut client = Client::of(&proxy);
    for n in 0..10 {
        assert_eq!(proxy.round_trips(|| drop(client.ask("x").unwrap())), 1, "request {n}");
    }
    let mut other = Client::of(&proxy);
    other.ask("y").unwrap();
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.round_trips, counts.bytes), (2, 11, (22, 22)));
}

#[test]
fn requests_sent_together_are_one_round_trip_on_a_long_wire() {
    let proxy = Proxy::delaying(echo(), Duration::from_millis(20));
    let mut client = Client::of(&proxy);
    client.ask("warm").unwrap();
    let trips = proxy.round_trips(|| {
        for n in 0..5 {
            client.send(&format!("{n}\n")).unwrap();
        }
        for n in 0..5 {
            assert_eq!(client.hear().unwrap(), n.to_string());
        }
    });
    assert_eq!(trips, 1);
}

#[test]
fn a_delay_is_felt_in_both_directions_and_does_not_add_up() {
    let one_way = Duration::from_millis(30);
    let proxy = Proxy::delaying(echo(), one_way);
    let mut client = Client::of(&proxy);
    let start = now();
    client.ask("x").unwrap();
    assert!(now() - start >= one_way * 2);
    // Messages in flight at the same time wait at the same time.
    let start = now();
    for _ in 0..50 {
        client.send("y\n").unwrap();
    }
    for _ in 0..50 {
        client.hear().unwrap();
    }
    let took = now() - start;
    assert!(took >= one_way * 2 && took < one_way * 50, "{took:?}");
}

#[test]
fn what_is_held_comes_when_it_is_let_go() {
    let proxy = Proxy::counting(echo());
    let mut client = Client::of(&proxy);
    client.ask("x").unwrap();
    proxy.hold();
    client.send("y\n").unwrap();
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.hear().is_err(), "nothing comes through");
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.let_go();
    assert_eq!(client.hear().unwrap(), "y");
}

#[test]
fn cuts_end_connections_and_only_those() {
    let proxy = Proxy::cutting(echo(), Cuts { seed: 7, one_in: 20 });
    let mut answers = 0;
    for _ in 0..20 {
        let mut client = Client::of(&proxy);
        answers +=
            (0..1000).take_while(|n| client.ask(&format!("line {n}")).is_ok_and(|a| a == format!("line {n}"))).count();
    }
    eventually("every connection was cut", PATIENCE, || (proxy.counts().cuts >= 20).then_some(()));
    assert!(answers > 20, "some got through: {answers}");
    proxy.cut(None);
    let mut client = Client::of(&proxy);
    assert!((0..200).all(|_| client.ask("z").is_ok()));
    proxy.cut_all();
    assert!(client.ask("z").is_err() || client.ask("z").is_err());
}

#[test]
fn refusing_ends_all_and_lets_nobody_in() {
    let proxy = Proxy::counting(echo());
    let mut client = Client::of(&proxy);
    client.ask("x").unwrap();
    proxy.refuse(true);
    assert!(client.ask("x").is_err() || client.ask("x").is_err());
    assert!(Client::of(&proxy).ask("x").is_err());
    proxy.refuse(false);
    assert_eq!(Client::of(&proxy).ask("x").unwrap(), "x");
}

#[test]
fn a_server_that_is_away_ends_the_connection() {
    let nobody = super::super::servers::free_port();
    let proxy = Proxy::counting(nobody);
    assert!(Client::of(&proxy).ask("x").is_err());
}
