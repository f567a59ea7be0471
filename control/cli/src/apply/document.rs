//! A file of documents, one resource each.

use std::cell::Cell;

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::reader::{Head, HeadReader, Reader};
use super::schema::Schema;
use crate::failure::{Failure, Outcome};
use crate::name::Kind;

/// What a file wants of one resource.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its kind.
    pub kind: Kind,
    /// Its full name.
    pub name: String,
    /// Labels and spec as far as the file gives them, as the API's JSON.
    pub wanted: Value,
    /// The version that the file is made from; empty where it tells none.
    pub etag: String,
    /// Where it stands, for messages: file and number of the document.
    pub place: String,
}

/// All documents of a file's text; empty ones are passed over.
pub fn read(schema: &Schema, file: &str, text: &str) -> Outcome<Vec<Document>> {
    let mut documents = Vec::new();
    let heads = serde_norway::Deserializer::from_str(text);
    let bodies = serde_norway::Deserializer::from_str(text);
    for (index, (head, body)) in heads.zip(bodies).enumerate() {
        let place = format!("{file}, document {}", index + 1);
        let filled = Cell::new(true);
        let head = HeadReader(&filled)
            .deserialize(head)
            .map_err(|error| refused(&place, &error))?;
        if !filled.get() {
            continue;
        }
        let (kind, name) = kind_and_name(&head).map_err(|failure| failure.within(&place))?;
        let message = format!("penstock.v1.{}", kind.message());
        let reader = Reader {
            schema,
            message: &message,
            beside: &["kind"],
        };
        let value = reader
            .deserialize(body)
            .map_err(|error| refused(&place, &error))?;
        documents.push(document(kind, name, value, place)?);
    }
    Ok(documents)
}

fn refused(place: &str, error: &serde_norway::Error) -> Failure {
    Failure::usage(format!("{place}: {error}"))
}

fn kind_and_name(head: &Head) -> Outcome<(Kind, String)> {
    let Some(name) = &head.name else {
        return Err(Failure::usage(
            "it has no `name`: write `name: volumes/v1`, or kind and name",
        ));
    };
    let kind = match &head.kind {
        Some(word) => Kind::called(word).ok_or_else(|| {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.message()).collect();
            Failure::usage(format!(
                "kind \"{word}\" is not one of {}",
                known.join(", ")
            ))
        })?,
        None => Kind::of(name).ok_or_else(|| {
            let told =
                format!("it has no `kind`, and \"{name}\" does not tell it: add `kind: Volume`");
            Failure::usage(told)
        })?,
    };
    if kind == Kind::Operation {
        return Err(Failure::usage(
            "operations cannot be applied: they come with changes",
        ));
    }
    Ok((kind, kind.full(name)?))
}

fn document(kind: Kind, name: String, mut value: Value, place: String) -> Outcome<Document> {
    let etag = value
        .get("etag")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    // What only the server writes is in files that come from `get -o yaml`; it is no wish.
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|key, _| key == "labels" || key == "spec");
    }
    full_references(&mut value).map_err(|failure| failure.within(&place))?;
    Ok(Document {
        kind,
        name,
        wanted: value,
        etag,
        place,
    })
}

/// Names of other resources may be written short too.
fn full_references(value: &mut Value) -> Outcome {
    let places = [
        ("/spec/volume", Kind::Volume),
        ("/spec/placement/node", Kind::Node),
        ("/spec/placement/devices", Kind::Device),
        ("/spec/hosts", Kind::Host),
    ];
    for (pointer, kind) in places {
        let Some(found) = value.pointer_mut(pointer) else {
            continue;
        };
        let single = std::slice::from_mut(found);
        let items = match single {
            [Value::Array(items)] => items.as_mut_slice(),
            single => single,
        };
        for item in items {
            if let Value::String(text) = item
                && !text.is_empty()
            {
                *text = kind.full(text)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Outcome<Vec<Document>> {
        super::read(&Schema::load()?, "f.yaml", text)
    }

    #[test]
    fn documents_are_read_with_sizes_and_short_names() {
        let text = "\
kind: Volume
name: v1
labels: {tier: fast}
spec:
  size_bytes: 100GiB
  block_size: 512
  placement: {node: n1}
  stripe: {width: 2, unit_bytes: 64KiB}
---
---
# no kind: the name tells it
name: subsystems/s1
etag: abc
uid: 123e
status: {nodes: [nodes/n1]}
spec:
  allow_any_host: false
  hosts: [h1, hosts/h2]
";
        let read = read(text).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].name, "volumes/v1");
        assert_eq!(
            read[0].wanted,
            json!({
                "labels": {"tier": "fast"},
                "spec": {
                    "size_bytes": "107374182400",
                    "block_size": "BLOCK_SIZE_512",
                    "placement": {"node": "nodes/n1"},
                    "stripe": {"width": "2", "unit_bytes": "65536"},
                },
            })
        );
        assert_eq!(
            (read[1].kind, read[1].etag.as_str()),
            (Kind::Subsystem, "abc")
        );
        let wanted = json!({"spec": {"allow_any_host": false, "hosts": ["hosts/h1", "hosts/h2"]}});
        assert_eq!(read[1].wanted, wanted);
        let typed = crate::object::from_json(read[0].kind, read[0].wanted.clone());
        assert!(typed.is_ok(), "{typed:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused_where_it_stands() {
        let refused: [(&str, &[&str]); 13] = [
            (
                "name: volumes/v1\nspec:\n  size: 1GiB\n",
                &[
                    "document 1",
                    "line 3",
                    "spec",
                    "no field `size`",
                    "did you mean `size_bytes`?",
                    "placement",
                ],
            ),
            (
                "name: volumes/v1\n---\nname: volumes/v2\nspce: {}\n",
                &["document 2", "line 4", "did you mean `spec`?"],
            ),
            (
                "name: volumes/v1\nspec: {size_bytes: 10 parsecs}\n",
                &["line 2", "like 100GiB"],
            ),
            (
                "name: volumes/v1\nspec: {size_bytes: 1.5}\n",
                &["line 2", "a size like 100GiB for `size_bytes`"],
            ),
            (
                "name: volumes/v1\nspec: {block_size: 1024}\n",
                &["one of 512, 4096"],
            ),
            (
                "name: nodes/n1\nspec: {cordoned: maybe}\n",
                &["true or false for `cordoned`"],
            ),
            (
                "name: nodes/n1\nspec: {failure_domains: {rack: 12}}\n",
                &["`rack`", "in quotes"],
            ),
            (
                "name: nodes/n1\nspec: []\n",
                &["a mapping with the fields of NodeSpec"],
            ),
            (
                "kind: Disk\nname: d\n",
                &["kind \"Disk\" is not one of Node, Device"],
            ),
            ("name: v1\n", &["add `kind: Volume`"]),
            ("kind: Volume\n", &["no `name`"]),
            (
                "kind: Volume\nname: v1\nname: v2\n",
                &["`name` is given twice"],
            ),
            ("kind: Volume\nname: {\n", &["document 1", "line"]),
        ];
        for (text, told) in refused {
            let failure = read(text).expect_err(text);
            assert_eq!(failure.exit, crate::failure::Exit::Usage);
            for part in told {
                assert!(
                    failure.message.contains(part),
                    "{part} is not in: {failure}"
                );
            }
        }
    }

    #[test]
    fn whatever_the_file_holds_reading_it_ends() {
        use proptest::prelude::*;
        let schema = Schema::load().unwrap();
        proptest!(|(text in "(kind: |name: |spec:|- |  |\\n|---|[a-z0-9{}\\[\\]&*!|>\"':, ]){0,60}")| {
            let _ = super::read(&schema, "f", &text);
        });
    }
}
