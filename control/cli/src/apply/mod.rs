//! `penstock apply`: files say what there shall be; the difference to the server is shown and made.

mod diff;
mod document;
mod plan;
mod reader;
mod schema;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use penstock_api::v1::Operation;
use serde_json::{Value, json};

use crate::api::{Changed, Guard};
use crate::command::Session;
use crate::failure::{Exit, Failure, Outcome};
use crate::object::Object;
use crate::output::{self, Format, coloured, line};
use crate::wait::wait;
use document::Document;
use plan::{Action, Step};

/// `penstock apply`.
///
/// Each document of the files names a resource (kind and name, or a full name such as volumes/v1)
/// and says what its labels and spec shall be, with the fields of the API; sizes may be written
/// like 100GiB, enums short, names of other resources short. What a document leaves out stays as it
/// is; what is in no document is not touched.
#[derive(Args, Debug)]
pub struct Apply {
    /// File with YAML (or JSON) documents; - is standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Show the difference and let the server check it, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until everything is done, telling what it waits for (at most --timeout each)
    #[arg(long, short)]
    wait: bool,
}

/// How a step ended.
struct Told {
    name: String,
    action: &'static str,
    operation: Option<Box<Operation>>,
}

impl Apply {
    /// Reads and compares everything first, so that nothing is changed where a file is wrong.
    pub async fn run(self, session: &Session) -> Outcome {
        let documents = self.read()?;
        let mut steps = Vec::new();
        for document in plan::in_order(documents)? {
            let before = match session.api.get(document.kind, &document.name).await {
                Ok(object) => Some(object),
                Err(failure) if failure.exit == Exit::NotFound => None,
                Err(failure) => return Err(failure),
            };
            steps.push(plan::compare(document, before)?);
        }
        let new: Vec<String> = steps
            .iter()
            .filter(|step| step.action == Action::Create)
            .map(|step| step.document.name.clone())
            .collect();
        let mut told = Vec::new();
        for step in &steps {
            let done = match self.dry_run.then(|| plan::waits_for(step, &new)).flatten() {
                Some(needed) => unchecked(session, step, needed),
                None => self.make(session, step).await,
            };
            told.push(done.map_err(|failure| stopped(failure, step, &told, steps.len()))?);
        }
        if self.wait {
            for operation in told.iter_mut().filter_map(|told| told.operation.as_mut()) {
                **operation = wait(&session.api, (**operation).clone()).await?;
            }
        }
        summary(session.format, &told, self.dry_run)
    }

    fn read(&self) -> Outcome<Vec<Document>> {
        let schema = schema::Schema::load()?;
        let mut documents = Vec::new();
        for path in &self.files {
            let name = match path == Path::new("-") {
                true => "standard input".to_owned(),
                false => path.display().to_string(),
            };
            let text = read_text(path)
                .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
            documents.extend(document::read(&schema, &name, &text)?);
        }
        if documents.is_empty() {
            let files: Vec<String> = self.files.iter().map(|f| f.display().to_string()).collect();
            return Err(Failure::usage(format!(
                "there is nothing in {}: write a document with kind, name and spec for each resource",
                files.join(", ")
            )));
        }
        Ok(documents)
    }

    async fn make(&self, session: &Session, step: &Step) -> Outcome<Told> {
        let guard = Guard::new(self.dry_run);
        let (action, changed) = match &step.action {
            Action::Nothing => {
                say(session, &format!("{} unchanged", step.document.name))?;
                return Ok(Told {
                    name: step.document.name.clone(),
                    action: "unchanged",
                    operation: None,
                });
            }
            Action::Create => {
                let made = session.api.create(step.after.clone(), guard).await?;
                ("created", made)
            }
            Action::Change { mask } => {
                let mask: Vec<&str> = mask.iter().map(String::as_str).collect();
                let guard = Guard {
                    etag: meant(step),
                    ..guard
                };
                let made = session.api.update(step.after.clone(), &mask, guard).await?;
                ("changed", made)
            }
        };
        let would = if self.dry_run {
            " (not yet: --dry-run)"
        } else {
            ""
        };
        say(session, &format!("{} {action}{would}", step.document.name))?;
        if self.dry_run || action == "changed" {
            show(session, step)?;
        }
        let operation = match changed {
            Changed::Began(operation) if !self.dry_run => Some(operation),
            _ => None,
        };
        Ok(Told {
            name: step.document.name.clone(),
            action,
            operation,
        })
    }
}

/// The version that the change is meant for: the file's, or the one that was compared with.
fn meant(step: &Step) -> String {
    use crate::object::Common;
    let read = step.before.as_ref().map(Object::etag).unwrap_or_default();
    let given = step.document.etag.as_str();
    if given.is_empty() {
        read.to_owned()
    } else {
        given.to_owned()
    }
}

fn unchecked(session: &Session, step: &Step, needed: &str) -> Outcome<Told> {
    let name = step.document.name.clone();
    let action = if step.action == Action::Create {
        "created"
    } else {
        "changed"
    };
    say(
        session,
        &format!("{name} {action} (not yet, and not checked: it needs {needed}, which is new)"),
    )?;
    show(session, step)?;
    Ok(Told {
        name,
        action,
        operation: None,
    })
}

fn read_text(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn say(session: &Session, text: &str) -> Outcome {
    match session.format {
        Format::Table => line(text),
        _ => Ok(()),
    }
}

fn show(session: &Session, step: &Step) -> Outcome {
    if session.format != Format::Table {
        return Ok(());
    }
    diff::lines(step, coloured())?
        .iter()
        .try_for_each(|text| line(text))
}

fn stopped(failure: Failure, step: &Step, done: &[Told], all: usize) -> Failure {
    let changed = done
        .iter()
        .filter(|told| told.action != "unchanged")
        .count();
    let mut failure = failure.within(&step.document.place);
    let left = all - done.len() - 1;
    failure.message.push_str(&format!(
        "\n  stopped here: {changed} changed before, {left} after it not looked at; put it right \
         and apply again, what is done stays done"
    ));
    failure
}

fn summary(format: Format, told: &[Told], dry_run: bool) -> Outcome {
    let count = |action: &str| told.iter().filter(|told| told.action == action).count();
    match format {
        Format::Table => {
            let tense = if dry_run { "would be: " } else { "" };
            line(&format!(
                "{tense}{} created, {} changed, {} unchanged",
                count("created"),
                count("changed"),
                count("unchanged")
            ))
        }
        Format::Name => told.iter().try_for_each(|told| line(&told.name)),
        format => {
            let results = told.iter().map(|told| {
                let operation = told.operation.as_ref().map(|operation| operation.name.clone());
                json!({"name": told.name, "action": told.action, "dry_run": dry_run, "operation": operation})
            });
            output::value(format, &Value::Array(results.collect()))
        }
    }
}

/// The kinds that a watch tells of, from the descriptors.
#[cfg(test)]
pub fn kinds_of_watch() -> Vec<String> {
    let schema = schema::Schema::load().unwrap();
    let fields = schema.fields("penstock.v1.WatchEvent").iter();
    let resources = fields.filter(|field| matches!(field.shape, schema::Shape::Message(_)));
    resources.map(|field| field.name.clone()).collect()
}
