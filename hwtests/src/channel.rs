//! The control channel: shell text to the guest, output and exit status back, many at a time.
//!
//! Each request is a line `id limit_s script`, each answer a line `id status output`, script and
//! output in base64, over a virtio port that QEMU shows here as a Unix socket.

use crate::base64;
use crate::error::{IoContext, LabError, Result, brief, tail};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The guest ends a command at its limit and must still report it; the host waits this much longer.
const GRACE: Duration = Duration::from_secs(10);

/// What a command in the guest printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exit status.
    pub status: i32,
    /// Standard output and standard error together.
    pub output: String,
}

#[derive(Default)]
struct Pending {
    waiting: HashMap<u64, Sender<Answer>>,
    closed: bool,
}

/// The host's end of the channel.
pub struct Channel {
    stream: UnixStream,
    pending: Arc<Mutex<Pending>>,
    next: u64,
}

/// A command that was sent and not yet answered.
pub struct Job {
    answer: Receiver<Answer>,
    script: String,
    limit: Duration,
}

impl Channel {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// The socket cannot be shared with the reading thread.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let reader = stream
            .try_clone()
            .doing(|| "share the control socket".into())?;
        let pending = Arc::new(Mutex::new(Pending::default()));
        let shared = Arc::clone(&pending);
        std::thread::spawn(move || {
            read_answers(BufReader::new(reader), &shared);
            let mut pending = shared.lock().unwrap_or_else(PoisonError::into_inner);
            // Dropping the senders wakes every waiter: the guest is gone.
            pending.closed = true;
            pending.waiting.clear();
        });
        Ok(Self {
            stream,
            pending,
            next: 0,
        })
    }

    /// Sends `script`, which the guest runs with `sh` and kills after `limit`.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn start(&mut self, script: &str, limit: Duration) -> Result<Job> {
        self.next += 1;
        let (sender, answer) = channel();
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.closed {
                return Err(gone(script));
            }
            pending.waiting.insert(self.next, sender);
        }
        let limit_s = limit.as_secs().max(1);
        let line = format!(
            "{} {limit_s} {}\n",
            self.next,
            base64::encode(script.as_bytes())
        );
        if self.stream.write_all(line.as_bytes()).is_err() {
            return Err(gone(script));
        }
        Ok(Job {
            answer,
            script: script.to_owned(),
            limit,
        })
    }
}

impl Job {
    /// Waits for the end of the command, whatever its status.
    ///
    /// # Errors
    /// The guest is gone, or it does not answer although the command's limit is long past.
    pub fn answer(self) -> Result<Answer> {
        match self.answer.recv_timeout(self.limit + GRACE) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(gone(&self.script)),
            Err(RecvTimeoutError::Timeout) => Err(LabError::TimedOut {
                what: format!("the guest's answer to `{}`", brief(&self.script)),
                after: self.limit + GRACE,
            }),
        }
    }

    /// Waits for the end of the command and returns what it printed.
    ///
    /// # Errors
    /// As [`Job::answer`], and a status other than 0.
    pub fn wait(self) -> Result<String> {
        let command = self.script.clone();
        let answer = self.answer()?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        Err(LabError::Guest {
            command,
            status: answer.status,
            output: tail(&answer.output, 4_000).trim().to_owned(),
        })
    }
}

fn gone(script: &str) -> LabError {
    LabError::Gone(format!(
        "the guest ended before it answered `{}`; its console is in the log",
        brief(script)
    ))
}

fn read_answers(reader: impl BufRead, pending: &Mutex<Pending>) {
    for line in reader.lines() {
        let Ok(line) = line else { return };
        let Some((id, answer)) = parse(&line) else {
            continue;
        };
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiter) = pending.waiting.remove(&id) {
            // The waiter may have given up; then nobody needs the answer.
            let _ = waiter.send(answer);
        }
    }
}

fn parse(line: &str) -> Option<(u64, Answer)> {
    let mut words = line.splitn(3, ' ');
    let id = words.next()?.parse().ok()?;
    let status = words.next()?.parse().ok()?;
    let output = base64::decode(words.next().unwrap_or(""))?;
    let output = String::from_utf8_lossy(&output).into_owned();
    Some((id, Answer { status, output }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn pair() -> (Channel, BufReader<UnixStream>) {
        let (host, guest) = UnixStream::pair().unwrap();
        (Channel::new(host).unwrap(), BufReader::new(guest))
    }

    fn request(guest: &mut BufReader<UnixStream>) -> (String, String) {
        let mut line = String::new();
        guest.read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let script = base64::decode(words[2]).unwrap();
        (words[0].to_owned(), String::from_utf8(script).unwrap())
    }

    #[test]
    fn answers_find_their_request_in_any_order() {
        let (mut host, mut guest) = pair();
        let first = host.start("echo 'a b'", LIMIT).unwrap();
        let second = host.start("false", LIMIT).unwrap();
        let (first_id, script) = request(&mut guest);
        assert_eq!(script, "echo 'a b'");
        let (second_id, _) = request(&mut guest);
        let answers = format!(
            "{second_id} 1 \nnoise\n{first_id} 0 {}\n",
            base64::encode(b"a b\n")
        );
        guest.get_mut().write_all(answers.as_bytes()).unwrap();
        assert_eq!(first.wait().unwrap(), "a b\n");
        let err = second.wait().unwrap_err();
        assert!(matches!(err, LabError::Guest { status: 1, .. }), "{err}");
    }

    #[test]
    fn a_lost_guest_fails_the_waiters_at_once() {
        let (mut host, guest) = pair();
        let job = host.start("sleep 1000", Duration::from_secs(1000)).unwrap();
        drop(guest);
        assert!(matches!(job.answer(), Err(LabError::Gone(_))));
        assert!(matches!(host.start("true", LIMIT), Err(LabError::Gone(_))));
    }
}
