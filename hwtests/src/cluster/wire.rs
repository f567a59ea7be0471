//! Calls in a recorded gRPC connection: HTTP/2's DATA frames (RFC 9113, 4.1 and 6.1) and gRPC's
//! length-prefixed messages. Headers are not looked at.

use std::collections::BTreeMap;

/// What a client of HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
/// Flag of a DATA frame with padding; no library of ours pads.
const PADDED: u8 = 8;
/// Compressed or not, and the length.
const MESSAGE_HEADER: usize = 5;

/// The messages of one call, in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// What the client sent.
    pub requests: Vec<Vec<u8>>,
    /// What the server answered; none as long as it has not.
    pub answers: Vec<Vec<u8>>,
}

/// The calls of a connection of which these bytes were seen so far. A frame or a message that is
/// not there to its end is left out.
#[must_use]
pub fn exchanges(requests: &[u8], answers: &[u8]) -> Vec<Exchange> {
    let Some(requests) = requests.strip_prefix(PREFACE) else {
        return Vec::new();
    };
    let mut answered = streams(answers);
    streams(requests)
        .into_iter()
        .map(|(stream, bytes)| Exchange {
            requests: messages(&bytes),
            answers: messages(&answered.remove(&stream).unwrap_or_default()),
        })
        .collect()
}

fn streams(mut bytes: &[u8]) -> BTreeMap<u32, Vec<u8>> {
    let mut found: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while let Some((header, rest)) = bytes.split_at_checked(FRAME_HEADER) {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |all, b| all << 8 | u32::from(*b));
        let Some((payload, rest)) = rest.split_at_checked(number(&header[..3]) as usize) else {
            break;
        };
        if header[3] == DATA && header[4] & PADDED == 0 {
            let stream = number(&header[5..]) & 0x7fff_ffff;
            found.entry(stream).or_default().extend_from_slice(payload);
        }
        bytes = rest;
    }
    found
}

fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(MESSAGE_HEADER) {
        let length = header[1..]
            .iter()
            .fold(0, |all, b| all << 8 | usize::from(*b));
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        // Nothing here asks for compression; what is compressed after all is no message we know.
        if header[0] == 0 {
            found.push(message.to_vec());
        }
        bytes = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![
            0,
            0,
            u8::try_from(payload.len()).unwrap(),
            kind,
            0,
            0,
            0,
            0,
            stream,
        ];
        frame.extend_from_slice(payload);
        frame
    }

    fn message(text: &str) -> Vec<u8> {
        let mut message = vec![0, 0, 0, 0, u8::try_from(text.len()).unwrap()];
        message.extend_from_slice(text.as_bytes());
        message
    }

    #[test]
    fn calls_are_told_apart_and_put_together() {
        let (ask, other) = (message("ask"), message("other"));
        let mut requests = PREFACE.to_vec();
        requests.extend(frame(4, 0, &[]));
        requests.extend(frame(1, 1, b"headers"));
        requests.extend(frame(DATA, 1, &ask[..6]));
        requests.extend(frame(DATA, 3, &other));
        requests.extend(frame(DATA, 1, &ask[6..]));
        let mut answers = frame(4, 0, &[]);
        answers.extend(frame(DATA, 3, &message("yes")));
        let found = exchanges(&requests, &answers);
        let first = Exchange {
            requests: vec![b"ask".to_vec()],
            answers: vec![],
        };
        let second = Exchange {
            requests: vec![b"other".to_vec()],
            answers: vec![b"yes".to_vec()],
        };
        assert_eq!(found, [first.clone(), second]);
        // The last frame is not there to its end.
        let cut = exchanges(&requests[..requests.len() - 1], &answers);
        assert_eq!(cut[0].requests, Vec::<Vec<u8>>::new());
        assert!(exchanges(b"GET / HTTP/1.1", &[]).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let requests = [PREFACE, &bytes].concat();
            let _ = exchanges(&requests, &bytes);
        }
    }
}
