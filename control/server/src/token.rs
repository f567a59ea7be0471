//! Opaque tokens of pages and watches: where to continue, in which store.

use penstock_store::Revision;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::fault::{Fault, Result};

const PAGE: u8 = 1;
const RESUME: u8 = 2;
const CHECK_LEN: usize = 4;

/// Where a list continues.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PageToken {
    /// The store.
    #[prost(string, tag = "1")]
    pub store_id: String,
    /// The revision that all pages are of.
    #[prost(int64, tag = "2")]
    pub revision: Revision,
    /// The ids after which the next page begins.
    #[prost(string, tag = "3")]
    pub after: String,
    /// What is listed: method and parent.
    #[prost(string, tag = "4")]
    pub query: String,
}

/// Where a watch continues.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResumeToken {
    /// The store.
    #[prost(string, tag = "1")]
    pub store_id: String,
    /// Everything up to here has been told.
    #[prost(int64, tag = "2")]
    pub revision: Revision,
}

impl PageToken {
    /// The token as text.
    pub fn to_text(&self) -> String {
        to_text(PAGE, self)
    }

    /// Reads a token of this list.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where it is none, or one of another list.
    pub fn parse(text: &str, query: &str) -> Result<PageToken> {
        let token: PageToken = from_text(PAGE, text).ok_or_else(|| {
            Fault::field(
                "page_token",
                "it is no page token; send the next_page_token of the page before, or nothing for the first page",
            )
        })?;
        if token.query != query {
            return Err(Fault::field(
                "page_token",
                format!(
                    "it belongs to another list ({}, not {query}); send the same parent with every page, or start anew without a token",
                    token.query
                ),
            ));
        }
        Ok(token)
    }
}

impl ResumeToken {
    /// The token as text.
    pub fn to_text(&self) -> String {
        to_text(RESUME, self)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where it is none.
    pub fn parse(text: &str) -> Result<ResumeToken> {
        from_text(RESUME, text).ok_or_else(|| {
            Fault::field(
                "resume_token",
                "it is no resume token; send one from a list or a watch's event, or nothing to begin with what exists",
            )
        })
    }
}

fn to_text<M: Message>(kind: u8, message: &M) -> String {
    let mut bytes = vec![kind];
    bytes.extend(message.encode_to_vec());
    let check = Sha256::digest(&bytes);
    bytes.extend(check.iter().take(CHECK_LEN));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_text<M: Message + Default>(kind: u8, text: &str) -> Option<M> {
    // Longer than any token with the longest names.
    const LONGEST: usize = 4_096;
    if text.len() > LONGEST || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?))
        .collect();
    let (content, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_LEN)?)?;
    if Sha256::digest(content).get(..CHECK_LEN)? != check {
        return None;
    }
    let (found, message) = content.split_first()?;
    (*found == kind).then(|| M::decode(message).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> PageToken {
        PageToken {
            store_id: "store".to_owned(),
            revision: 77,
            after: "n1/d0".to_owned(),
            query: "ListDevices nodes/n1".to_owned(),
        }
    }

    #[test]
    fn tokens_are_read_back() {
        let token = page();
        let text = token.to_text();
        assert_eq!(PageToken::parse(&text, &token.query).unwrap(), token);
        let fault = PageToken::parse(&text, "ListDevices nodes/-").unwrap_err();
        assert_eq!(fault.reason, "INVALID_FIELD");
        assert!(fault.message.contains("another list"));
        assert!(ResumeToken::parse(&text).is_err());
        let resume = ResumeToken {
            store_id: "s".to_owned(),
            revision: 5,
        };
        assert_eq!(ResumeToken::parse(&resume.to_text()).unwrap(), resume);
    }

    proptest! {
        #[test]
        fn garbage_is_no_token(text in ".{0,64}", hex in "[0-9a-f]{0,64}") {
            prop_assert!(ResumeToken::parse(&text).is_err());
            prop_assert!(ResumeToken::parse(&hex).is_err());
        }

        #[test]
        fn a_changed_token_is_refused(at in 0usize..40, to in "[0-9a-f]") {
            let text = page().to_text();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            if changed != text {
                prop_assert!(PageToken::parse(&changed, &page().query).is_err());
            }
        }
    }
}
