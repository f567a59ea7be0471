//! Watching: every change as it happens, through broken connections and restarted servers.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_api::v1::{WatchEvent, WatchEventType, WatchRequest};
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::api::Api;
use crate::failure::{Exit, Failure, Outcome};
use crate::name::{Kind, short};
use crate::object::{Common, Object};
use crate::output::{self, Format, line, note};
use crate::view::{Column, clock, columns, row, summary};

/// Between two tries to connect.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
const TOO_OLD: &str = "RESUME_TOKEN_TOO_OLD";

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Empty: all kinds.
    pub kinds: Vec<Kind>,
    /// Only this resource and those under it; empty: all.
    pub name_prefix: String,
    /// Only resources with these labels.
    pub labels: BTreeMap<String, String>,
    /// Continue from there.
    pub resume_token: String,
    /// Say nothing of what exists already.
    pub changes_only: bool,
}

/// Watches until this program is ended.
pub async fn watch(api: &Api, format: Format, watched: Watched) -> Outcome {
    let mut printer = Printer::new(format, &watched);
    let mut memory = Memory::new(&watched);
    let mut tries = 0;
    loop {
        let failure = match follow(api, &watched, &mut memory, &mut printer, &mut tries).await {
            Ok(()) => Failure::new(Exit::Unreachable, "the server ended the watch"),
            Err(failure) if failure.reason() == TOO_OLD || memory.too_old(&failure) => {
                note("the history does not reach back that far: listing again");
                memory.relist();
                continue;
            }
            Err(failure) => failure,
        };
        // Who never got through is told at once; who did is not given up.
        if !may_pass(&failure) || !memory.ever_connected {
            return Err(failure);
        }
        let pause = PAUSES
            .get(tries)
            .or(PAUSES.last())
            .copied()
            .unwrap_or_default();
        if tries == 1 {
            let why = failure.message.lines().next().unwrap_or_default();
            note(&format!("{why}; trying again until it answers"));
        }
        if memory.snapshot {
            memory.relist();
        }
        tries += 1;
        api.forget();
        tokio::time::sleep(pause).await;
    }
}

fn may_pass(failure: &Failure) -> bool {
    let passing = [
        Code::Unavailable,
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Aborted,
    ];
    failure.exit == Exit::Unreachable || failure.code().is_some_and(|code| passing.contains(&code))
}

/// One stream from beginning to end.
async fn follow(
    api: &Api,
    watched: &Watched,
    memory: &mut Memory,
    printer: &mut Printer,
    tries: &mut usize,
) -> Outcome {
    let request = WatchRequest {
        kinds: watched
            .kinds
            .iter()
            .map(|kind| kind.noun().to_owned())
            .collect(),
        name_prefix: watched.name_prefix.clone(),
        labels: watched.labels.clone(),
        resume_token: memory.token.clone(),
    };
    let mut stream = api.watch(request).await?;
    memory.ever_connected = true;
    while let Some(event) = stream.next().await {
        let event = event.map_err(|status| Failure::from_status(status, &api.endpoint()))?;
        *tries = 0;
        for told in memory.take(event) {
            printer.print(&told)?;
        }
    }
    Ok(())
}

/// What was told already, so that a new listing tells only the difference.
struct Memory {
    token: String,
    ever_connected: bool,
    /// What exists is being told: no token before its end continues within it.
    snapshot: bool,
    known: BTreeMap<String, Object>,
    /// While listing anew: what the listing has named so far.
    listing: Option<BTreeMap<String, Object>>,
    silent: bool,
}

impl Memory {
    fn new(watched: &Watched) -> Self {
        Self {
            token: watched.resume_token.clone(),
            ever_connected: false,
            snapshot: watched.resume_token.is_empty(),
            known: BTreeMap::new(),
            listing: None,
            silent: watched.changes_only && watched.resume_token.is_empty(),
        }
    }

    fn too_old(&self, failure: &Failure) -> bool {
        failure.code() == Some(Code::OutOfRange) && !self.token.is_empty()
    }

    fn relist(&mut self) {
        self.token.clear();
        self.snapshot = true;
        self.listing = Some(BTreeMap::new());
    }

    /// What is to be told of an event.
    fn take(&mut self, event: WatchEvent) -> Vec<WatchEvent> {
        let kind = event.r#type();
        self.snapshot &= kind != WatchEventType::Synced;
        if !self.snapshot && !event.resume_token.is_empty() {
            self.token.clone_from(&event.resume_token);
        }
        if kind == WatchEventType::Synced {
            self.silent = false;
            return self.end_listing(&event.resume_token);
        }
        let Some(object) = event.resource.clone() else {
            return Vec::new();
        };
        let name = object.name().to_owned();
        let before = self.known.get(&name).cloned();
        match kind {
            WatchEventType::Deleted => self.known.remove(&name),
            _ => self.known.insert(name.clone(), object.clone()),
        };
        if let Some(listing) = &mut self.listing {
            listing.insert(name, object.clone());
            if before.as_ref() == Some(&object) {
                return Vec::new();
            }
        }
        let kind = match (kind, before) {
            (WatchEventType::Added, Some(_)) => WatchEventType::Modified,
            (kind, _) => kind,
        };
        let told = WatchEvent {
            r#type: kind.into(),
            ..event
        };
        if self.silent { Vec::new() } else { vec![told] }
    }

    /// What was known before a new listing and is not in it is gone.
    fn end_listing(&mut self, token: &str) -> Vec<WatchEvent> {
        let Some(listing) = self.listing.take() else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut self.known, listing);
        let gone = before
            .into_iter()
            .filter(|(name, _)| !self.known.contains_key(name));
        gone.map(|(_, object)| WatchEvent {
            r#type: WatchEventType::Deleted.into(),
            resume_token: token.to_owned(),
            resource: Some(object),
        })
        .collect()
    }
}

/// Tables whose columns widen as they must, or a line of JSON for each event.
struct Printer {
    format: Format,
    single: Option<Kind>,
    widths: Vec<usize>,
    titled: bool,
}

impl Printer {
    fn new(format: Format, watched: &Watched) -> Self {
        let single = match watched.kinds.as_slice() {
            [kind] => Some(*kind),
            _ => None,
        };
        Self {
            format,
            single,
            widths: Vec::new(),
            titled: false,
        }
    }

    fn print(&mut self, event: &WatchEvent) -> Outcome {
        let Some(object) = &event.resource else {
            return Ok(());
        };
        let word = event
            .r#type()
            .as_str_name()
            .trim_start_matches("WATCH_EVENT_TYPE_");
        match self.format {
            Format::Table => self.table(word, object),
            Format::Name => line(&format!("{word} {}", object.name())),
            Format::Json => line(&self.json(event, object).to_string()),
            Format::Yaml => {
                let text = output::yaml(&self.json(event, object))?;
                line(&format!("---\n{}", text.trim_end()))
            }
        }
    }

    fn json(&self, event: &WatchEvent, object: &Object) -> serde_json::Value {
        let mut json = json!({
            "type": event.r#type().as_str_name(),
            "resume_token": event.resume_token,
        });
        if let Some(fields) = json.as_object_mut() {
            fields.insert(object.kind().noun().to_owned(), object.json());
        }
        json
    }

    fn table(&mut self, word: &str, object: &Object) -> Outcome {
        let mut shown = vec![Column::left("TIME"), Column::left("EVENT")];
        let mut cells = vec![clock(), word.to_lowercase()];
        match self.single {
            Some(kind) => {
                let columns = columns(kind);
                shown.extend(&columns[..columns.len() - 1]);
                cells.extend(row(object));
                cells.pop();
            }
            None => {
                shown.extend([
                    Column::left("KIND"),
                    Column::left("NAME"),
                    Column::left("SEEN"),
                ]);
                cells.push(object.kind().noun().to_owned());
                cells.push(short(object.name()));
                cells.push(summary(object));
            }
        }
        if !self.titled {
            self.titled = true;
            self.widths = shown
                .iter()
                .map(|column| column.title.len().max(8))
                .collect();
            let titles = shown.iter().map(|column| column.title.to_owned()).collect();
            self.cells(&shown, titles)?;
        }
        self.cells(&shown, cells)
    }

    fn cells(&mut self, shown: &[Column], cells: Vec<String>) -> Outcome {
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        let padded = cells.iter().zip(shown.iter().zip(&self.widths));
        let padded =
            padded.map(|(cell, (column, width))| crate::view::pad(cell, *width, column.right));
        line(padded.collect::<Vec<_>>().join("  ").trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::v1::{Host, HostSpec};

    fn event(kind: WatchEventType, name: &str, nqn: &str) -> WatchEvent {
        let host = Host {
            name: name.into(),
            spec: Some(HostSpec { nqn: nqn.into() }),
            ..Host::default()
        };
        let synced = kind == WatchEventType::Synced;
        WatchEvent {
            r#type: kind.into(),
            resume_token: "t".into(),
            resource: (!synced).then_some(Object::Host(host)),
        }
    }

    fn told(events: &[WatchEvent]) -> Vec<(WatchEventType, String)> {
        let words = events
            .iter()
            .map(|e| (e.r#type(), e.resource.as_ref().unwrap().name().into()));
        words.collect()
    }

    #[test]
    fn a_new_listing_tells_only_what_is_different() {
        use WatchEventType::{Added, Deleted, Modified, Synced};
        let mut memory = Memory::new(&Watched::default());
        for name in ["hosts/a", "hosts/b", "hosts/c"] {
            assert_eq!(
                told(&memory.take(event(Added, name, "1"))),
                [(Added, name.to_owned())]
            );
        }
        assert!(memory.take(event(Synced, "", "")).is_empty());
        assert_eq!(memory.token, "t");
        memory.relist();
        assert_eq!(memory.token, "");
        assert!(memory.take(event(Added, "hosts/a", "1")).is_empty());
        let changed = memory.take(event(Added, "hosts/b", "2"));
        assert_eq!(told(&changed), [(Modified, "hosts/b".to_owned())]);
        let new = memory.take(event(Added, "hosts/d", "1"));
        assert_eq!(told(&new), [(Added, "hosts/d".to_owned())]);
        let gone = memory.take(event(Synced, "", ""));
        assert_eq!(told(&gone), [(Deleted, "hosts/c".to_owned())]);
        assert_eq!(told(&memory.take(event(Deleted, "hosts/a", "1"))).len(), 1);
        assert!(!memory.known.contains_key("hosts/a"));
    }

    #[test]
    fn what_exists_is_left_out_on_demand() {
        use WatchEventType::{Added, Synced};
        let watched = Watched {
            changes_only: true,
            ..Watched::default()
        };
        let mut memory = Memory::new(&watched);
        assert!(memory.take(event(Added, "hosts/a", "1")).is_empty());
        assert!(memory.take(event(Synced, "", "")).is_empty());
        assert_eq!(memory.take(event(Added, "hosts/b", "1")).len(), 1);
    }
}
