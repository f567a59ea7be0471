//! Times as people read them.

use std::time::{Duration, SystemTime};

use penstock_api::well_known::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::quantity::duration;

/// How long ago; empty where it is not set.
pub fn age(time: Option<&Timestamp>) -> String {
    let since = time.and_then(to_system).map(|then| {
        SystemTime::now()
            .duration_since(then)
            .unwrap_or(Duration::ZERO)
    });
    since.map(duration).unwrap_or_default()
}

fn to_system(time: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanoseconds = u32::try_from(time.nanos).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// How long ago a time of the API's JSON was.
pub fn age_of_text(text: &str) -> Option<String> {
    let then = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let since = Duration::try_from(OffsetDateTime::now_utc() - then).unwrap_or(Duration::ZERO);
    Some(duration(since))
}

/// The time of day, in UTC.
pub fn clock() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_of_the_past_only() {
        let ago = |seconds: u64| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            let since = then.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Timestamp {
                seconds: i64::try_from(since.as_secs()).unwrap(),
                nanos: 0,
            }
        };
        assert_eq!(age(Some(&ago(7200))), "2h");
        assert_eq!(age(None), "");
        let ahead = Timestamp {
            seconds: 32_503_680_000,
            nanos: 0,
        };
        assert_eq!(age(Some(&ahead)), "0s");
        assert_eq!(age_of_text("2999-01-01T00:00:00Z").as_deref(), Some("0s"));
        assert_eq!(age_of_text("yesterday"), None);
    }
}
