//! Several redis-servers that stand together: a cluster, or a master with sentinels.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, free_port, program};
use super::{Redis, RedisConfig, server_folder};
use crate::support::eventually::{PATIENCE, eventually};

/// The whole of the hash slots, shared by three masters.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];
/// A server that is silent for so long is down, milliseconds.
const DOWN_AFTER_MS: u32 = 1000;

/// Three masters, each with a third of the slots.
pub(crate) struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts them and waits until they agree.
    #[track_caller]
    pub(crate) fn start() -> Cluster {
        let extra = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"].map(str::to_owned).to_vec();
        let nodes: Vec<Redis> = SLOTS
            .iter()
            .map(|_| {
                // The bus has a port of its own, which else is 10,000 above and may be anybody's.
                let bus = ["--cluster-port".to_owned(), free_port().to_string()];
                Redis::with(RedisConfig { extra: [&extra[..], &bus].concat(), ..RedisConfig::default() })
            })
            .collect();
        for (node, (first, last)) in nodes.iter().zip(SLOTS) {
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        for (other, bus) in nodes.iter().zip(nodes.iter().map(bus_port)).skip(1) {
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus]);
        }
        let agree = |node: &Redis| {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        eventually("a cluster of three", PATIENCE, || nodes.iter().all(agree).then_some(()));
        Cluster { nodes }
    }

    /// A URL that names one node: the others are found through it.
    pub(crate) fn url(&self, db: u32) -> String {
        self.nodes[0].url(db)
    }

    /// A URL that names all.
    pub(crate) fn url_of_all(&self, db: u32) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port())).collect();
        format!("redis://{}/{db}", hosts.join(","))
    }

    /// The servers.
    pub(crate) fn nodes(&self) -> &[Redis] {
        &self.nodes
    }
}

fn bus_port(node: &Redis) -> String {
    node.ask(&["CONFIG", "GET", "cluster-port"]).lines().nth(1).expect("a value").to_owned()
}

/// A master, a replica, and three sentinels that watch them under the name `m`.
pub(crate) struct Sentinels {
    // Dropped in this order: nobody fails over to a server that is about to go.
    sentinels: Vec<(Process, u16)>,
    servers: Vec<Redis>,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts them and waits until all know all.
    #[track_caller]
    pub(crate) fn start() -> Sentinels {
        let master = Redis::start();
        let replica = Redis::with(RedisConfig { replica_of: Some(master.port()), ..RedisConfig::default() });
        let is_linked = || replica.ask(&["INFO", "replication"]).contains("master_link_status:up").then_some(());
        eventually("the replica has a copy", PATIENCE, is_linked);
        let folder = server_folder("sentinel");
        let sentinels: Vec<_> = (0..3).map(|n| sentinel(&folder, n, master.port())).collect();
        let group = Sentinels { sentinels, servers: vec![master, replica], _folder: folder };
        eventually("the sentinels know each other", PATIENCE, || {
            let ports = group.sentinels.iter().map(|(_, port)| *port);
            let known = |port| ask(port, &["SENTINEL", "MASTER", "m"]).unwrap_or_default();
            ports.map(known).all(|m| has(&m, "num-other-sentinels", "2") && has(&m, "num-slaves", "1")).then_some(())
        });
        group
    }

    /// `redis://m,host:port,.../db`.
    pub(crate) fn url(&self, db: u32) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis://m,{}/{db}", hosts.join(","))
    }

    /// The server that was the master at the start, and its replica.
    pub(crate) fn servers(&mut self) -> &mut [Redis] {
        &mut self.servers
    }

    /// The server that was the replica at the start.
    pub(crate) fn replica(&self) -> &Redis {
        &self.servers[1]
    }

    /// Waits until the sentinels say that the replica is the master.
    #[track_caller]
    pub(crate) fn wait_for_failover(&self) {
        let port = self.servers[1].port().to_string();
        eventually("the replica is the master", PATIENCE, || {
            let address = ask(self.sentinels[0].1, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "m"]).ok()?;
            let role = self.servers[1].ask(&["ROLE"]);
            (address.contains(&port) && role.starts_with("master")).then_some(())
        });
    }
}

fn sentinel(folder: &TempDir, n: u32, master: u16) -> (Process, u16) {
    let dir = folder.path().join(n.to_string());
    std::fs::create_dir(&dir).expect("the folder is ours");
    let (config, log) = (dir.join("sentinel.conf"), dir.join("log"));
    for _ in 0..5 {
        let port = free_port();
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor m 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds m {DOWN_AFTER_MS}\nsentinel failover-timeout m 3000\n",
            dir.display()
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let mut command = Command::new(program("redis-sentinel", "redis-sentinel"));
        command.arg(&config);
        let mut process = Process::start(command, &log, Signal::TERM);
        if process.ready(|| ask(port, &["PING"]).ok()).is_some() {
            return (process, port);
        }
    }
    panic!("redis-sentinel does not start:\n{}", std::fs::read_to_string(log).unwrap_or_default());
}

fn ask(port: u16, command: &[&str]) -> redis::RedisResult<String> {
    let mut connection = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?.get_connection()?;
    super::redis::query(&mut connection, command)
}

/// Does a flat list of names and values say so?
fn has(list: &str, name: &str, value: &str) -> bool {
    let lines: Vec<&str> = list.lines().collect();
    lines.windows(2).any(|w| w == [name, value])
}
