//! A relay between a client and a member that loses or holds back what passes through.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// They wait until it is open again.
    Held,
}

/// A relay to one member.
pub struct Relay {
    pub endpoint: String,
    requests: watch::Sender<Way>,
    answers: watch::Sender<Way>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u32>,
}

impl Relay {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let relay = Self {
            endpoint,
            requests: watch::Sender::new(Way::Open),
            answers: watch::Sender::new(Way::Open),
            cuts: watch::Sender::new(0),
        };
        let (requests, answers) = (relay.requests.subscribe(), relay.answers.subscribe());
        let cuts = relay.cuts.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(member) = TcpStream::connect(to).await else {
                    continue;
                };
                let (client_in, client_out) = client.into_split();
                let (member_in, member_out) = member.into_split();
                let (requests, answers) = (requests.clone(), answers.clone());
                let mut cut = cuts.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass(client_in, member_out, requests) => {}
                        () = pass(member_in, client_out, answers) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        relay
    }

    pub fn set_requests(&self, way: Way) {
        self.requests.send_replace(way);
    }

    pub fn set_answers(&self, way: Way) {
        self.answers.send_replace(way);
    }

    /// Ends all connections; what was held is lost.
    pub async fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
        // Let the connections end before anything held could go on its way.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if way.wait_for(|way| *way == Way::Open).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
