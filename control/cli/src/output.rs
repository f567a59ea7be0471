//! Answers on standard output: tables for people, JSON, YAML or names for programs.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::name::Kind;
use crate::object::{Common, Object};
use crate::view::{self, Table};

/// How to print.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// The API's JSON, with the protobuf's field names
    Json,
    /// The same as YAML, which `apply` takes
    Yaml,
    /// Full names, one a line
    Name,
}

/// Prints a line, or gives up quietly where nobody reads on.
pub fn line(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => std::process::exit(0),
        _ => Failure::other(format!("cannot write the answer: {error}")),
    })
}

/// A note for people beside the answer.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether answers may be coloured.
pub fn coloured() -> bool {
    let off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !off
}

/// One resource.
pub fn one(format: Format, object: &Object) -> Outcome {
    match format {
        Format::Table => table(object.kind(), std::slice::from_ref(object)),
        Format::Json => json(&object.json()),
        Format::Yaml => line(yaml(&object.json())?.trim_end()),
        Format::Name => line(object.name()),
    }
}

/// Several resources of one kind: a JSON list, YAML documents, a table or names.
pub fn many(format: Format, kind: Kind, objects: &[Object]) -> Outcome {
    match format {
        Format::Table if objects.is_empty() => {
            note(&format!("no {}", kind.plural()));
            Ok(())
        }
        Format::Table => table(kind, objects),
        Format::Json => json(&Value::Array(objects.iter().map(Common::json).collect())),
        Format::Yaml => {
            let documents = objects.iter().map(|object| yaml(&object.json()));
            let documents: Vec<String> = documents.collect::<Outcome<_>>()?;
            match documents.is_empty() {
                true => Ok(()),
                false => line(documents.join("---\n").trim_end()),
            }
        }
        Format::Name => objects.iter().try_for_each(|object| line(object.name())),
    }
}

fn table(kind: Kind, objects: &[Object]) -> Outcome {
    let mut table = Table::new(&view::columns(kind));
    for object in objects {
        table.push(view::row(object));
    }
    line(&table.to_string())
}

/// Any message of the API, for programs. `table` gets the same as YAML.
pub fn value(format: Format, message: &Value) -> Outcome {
    match format {
        Format::Json => json(message),
        _ => line(yaml(message)?.trim_end()),
    }
}

fn json(value: &Value) -> Outcome {
    let text = serde_json::to_string_pretty(value);
    line(&text.map_err(|error| Failure::other(error.to_string()))?)
}

/// YAML of a value.
pub fn yaml(value: &Value) -> Outcome<String> {
    serde_norway::to_string(value).map_err(|error| Failure::other(error.to_string()))
}

/// The message as JSON.
pub fn to_value<T: serde::Serialize>(message: &T) -> Value {
    serde_json::to_value(message).unwrap_or_default()
}
