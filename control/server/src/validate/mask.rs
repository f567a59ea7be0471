//! Update masks.

use penstock_api::well_known::FieldMask;

use super::{Policy, Violations, differences, field};
use crate::fault::{Fault, Result};

/// Applies the fields of a mask: what the resource is to be.
///
/// # Errors
/// INVALID_ARGUMENT where the mask is empty, names what does not exist or cannot be changed, or is
/// `*` and a field that cannot be changed has another value.
pub fn paths<R: Policy>(existing: &R, new: &R, mask: Option<&FieldMask>) -> Result<R> {
    let valid = || R::MUTABLE.join(", ");
    let asked: Vec<&str> = mask
        .map(|mask| mask.paths.iter().map(String::as_str).collect())
        .unwrap_or_default();
    if asked.is_empty() {
        return Err(Fault::field(
            "update_mask",
            format!(
                "it is empty; name the fields to change ({}), or * for all",
                valid()
            ),
        ));
    }
    let mut found = Violations::default();
    let all = asked.contains(&"*");
    if all && asked.len() > 1 {
        found.add("update_mask", "* stands for all fields; send it alone");
    }
    for path in asked.iter().filter(|path| **path != "*") {
        if R::MUTABLE.contains(path) {
            continue;
        }
        let why = if R::FIXED.contains(path) {
            format!("{path} cannot be changed; use {}, or *", valid())
        } else {
            format!(
                "{path:?} is no field that can be changed; use {}, or *",
                valid()
            )
        };
        found.add("update_mask", why);
    }
    let mut wanted = new.clone();
    wanted.inherit(existing);
    if all {
        for difference in differences(&wanted, existing) {
            if !covers(R::MUTABLE, &difference.path) {
                found.add(
                    field::<R>(&difference.path),
                    format!(
                        "it cannot be changed from {} to {}; leave it as it is, or create another {}",
                        difference.other, difference.one, R::KIND
                    ),
                );
            }
        }
    }
    found.finish()?;
    let mut updated = existing.clone();
    for path in R::MUTABLE.iter().filter(|path| all || asked.contains(path)) {
        if *path == "labels" {
            updated.labels_mut().clone_from(new.labels());
        } else {
            updated.take(path, &wanted);
        }
    }
    Ok(updated)
}

fn covers(paths: &[&str], path: &str) -> bool {
    paths.iter().any(|known| {
        path.strip_prefix(known)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}
