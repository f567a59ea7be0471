//! The grammar of NVMe qualified names (NVMe Base 2.1, 4.7).

/// Longest NQN in bytes.
pub const NQN_BYTES_MAX: usize = 223;

/// Name of the well-known discovery subsystem, which every listener serves by itself.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Why `text` is no NQN; `None` where it is one: `nqn.YYYY-MM.reversed.domain[:anything]`.
pub fn defect(text: &str) -> Option<String> {
    if text.len() > NQN_BYTES_MAX {
        return Some(format!(
            "{} bytes are more than the {NQN_BYTES_MAX} allowed",
            text.len()
        ));
    }
    let Some(rest) = text.strip_prefix("nqn.") else {
        return Some("it does not begin with `nqn.`".to_owned());
    };
    let Some((date, rest)) = rest.split_once('.') else {
        return Some("a date and a reversed domain name must follow `nqn.`".to_owned());
    };
    if !is_year_month(date) {
        return Some(format!("`{date}` is no year and month (YYYY-MM)"));
    }
    let domain = rest.split(':').next().unwrap_or("");
    let label_ok = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !domain.split('.').all(label_ok) {
        return Some(format!("`{domain}` is no reversed domain name"));
    }
    if rest.ends_with(':') && domain.len() + 1 == rest.len() {
        return Some("nothing follows the colon".to_owned());
    }
    text.chars()
        .any(char::is_control)
        .then(|| "it holds control characters".to_owned())
}

fn is_year_month(date: &str) -> bool {
    let Some((year, month)) = date.split_once('-') else {
        return false;
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    year.len() == 4
        && month.len() == 2
        && digits(year)
        && digits(month)
        && matches!(month.parse(), Ok(1..=12u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_two_forms_of_the_specification() {
        for good in [
            "nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432",
            "nqn.2014-08.com.example:nvme.host.sys.xyz",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2026-01.io.penstock",
        ] {
            assert_eq!(defect(good), None, "{good}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let long = format!("nqn.2014-08.com.example:{}", "x".repeat(200));
        for (bad, why) in [
            ("", "begin with"),
            ("iqn.2014-08.com.example:x", "begin with"),
            ("nqn.2014-08", "must follow"),
            ("nqn.2014-13.com.example:x", "year and month"),
            ("nqn.14-08.com.example:x", "year and month"),
            ("nqn.2014-08.com..example:x", "domain"),
            ("nqn.2014-08.com.ex ample:x", "domain"),
            ("nqn.2014-08.com.example:", "nothing follows"),
            ("nqn.2014-08.com.example:a\tb", "control"),
            (&long, "more than"),
        ] {
            let defect = defect(bad).unwrap_or_default();
            assert!(defect.contains(why), "{bad:?}: {defect:?}");
        }
    }
}
