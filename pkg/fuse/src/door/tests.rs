use std::process::Command;
use std::sync::mpsc;

use cairn_vfs::Error;
use tokio::sync::oneshot;

use super::*;

fn call(tid: u32) -> Call {
    Call { name: "test", req: 1, ino: 1, tid, is_read: false }
}

fn door() -> (tokio::runtime::Runtime, Door) {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let door = Door::new(rt.handle().clone());
    (rt, door)
}

/// What `op` is answered with, and on which thread.
fn answer<T: Send + 'static>(
    door: &Door,
    tid: u32,
    op: impl Future<Output = cairn_vfs::Result<T>> + Send + 'static,
) -> mpsc::Receiver<(Result<T, Errno>, std::thread::ThreadId)> {
    let (tx, rx) = mpsc::channel();
    door.serve(call(tid), op, move |out| tx.send((out, std::thread::current().id())).unwrap());
    rx
}

#[test]
fn what_is_ready_is_answered_on_the_same_thread() {
    let (_rt, door) = door();
    let (out, thread) = answer(&door, 0, async { Ok(7) }).try_recv().expect("answered before serve returned");
    assert_eq!((out, thread), (Ok(7), std::thread::current().id()));
}

#[test]
fn what_waits_is_answered_by_the_runtime() {
    let (_rt, door) = door();
    let (tx, rx) = oneshot::channel();
    let answers = answer(&door, 0, async { Ok(rx.await.unwrap()) });
    assert!(answers.try_recv().is_err());
    tx.send(8).unwrap();
    let (out, thread) = answers.recv().unwrap();
    assert_eq!(out, Ok(8));
    assert_ne!(thread, std::thread::current().id());
}

#[test]
fn a_panic_is_answered_with_eio() {
    let (_rt, door) = door();
    let now = answer::<()>(&door, 0, async { panic!("on the kernel's thread") });
    assert_eq!(now.recv().unwrap().0, Err(Errno::EIO));
    let (tx, rx) = oneshot::channel::<()>();
    let later = answer::<()>(&door, 0, async move { panic!("in the runtime: {:?}", rx.await) });
    tx.send(()).unwrap();
    assert_eq!(later.recv().unwrap().0, Err(Errno::EIO));
    assert_eq!(door.inline::<()>(call(0), || panic!("inline")), Some(Err(Errno::EIO)));
}

#[test]
fn errors_are_answered_by_the_table() {
    let (_rt, door) = door();
    let out = answer::<()>(&door, 0, async { Err(Error::Meta(cairn_meta::Error::NotEmpty)) });
    assert_eq!(out.recv().unwrap().0, Err(Errno::ENOTEMPTY));
}

#[test]
fn a_caller_told_to_stop_gets_eintr_and_the_result_is_taken_care_of() {
    let (_rt, door) = door();
    // A stopped child with SIGTERM pending stands for a caller that waits.
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = child.id() as libc::pid_t;
    // SAFETY: plain system calls on a child of ours; waitpid writes to a local.
    unsafe {
        assert_eq!(libc::kill(pid, libc::SIGSTOP), 0);
        assert_eq!(libc::waitpid(pid, &mut 0, libc::WUNTRACED), pid, "stopped");
        assert_eq!(libc::kill(pid, libc::SIGTERM), 0);
    }
    let ((tx, rx), (answers, answered), (late, lately)) = (oneshot::channel(), mpsc::channel(), mpsc::channel());
    door.serve_or(
        call(child.id()),
        async { Ok(rx.await.unwrap()) },
        move |out: Result<u32, Errno>| answers.send(out).unwrap(),
        move |value| async move { late.send(value).unwrap() },
    );
    assert_eq!(answered.recv().unwrap(), Err(Errno::EINTR));
    tx.send(9).unwrap();
    assert_eq!(lately.recv().unwrap(), 9);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn closing_waits_for_what_is_under_way_and_ends_lock_waits() {
    let (_rt, door) = door();
    let interrupted = door.interrupted(0);
    assert!(!interrupted());
    let answers = answer(&door, 0, async move {
        while !interrupted() {
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    door.close(async {});
    assert_eq!(answers.try_recv().expect("answered before close returned").0, Ok(()));
}

#[test]
fn closing_does_not_wait_for_reads() {
    let (_rt, door) = door();
    let (answers, answered) = mpsc::channel();
    let never = std::future::pending::<cairn_vfs::Result<()>>();
    door.serve(call(0).read(), never, move |out| answers.send(out).unwrap());
    door.close(async {});
    assert_eq!(answered.try_recv().expect("answered before close returned"), Err(Errno::ENODEV));
}
