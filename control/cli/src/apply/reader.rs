//! Reading a document by the API's messages, so that whatever does not fit is refused where it
//! stands in the file, with what would fit.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::schema::{Field, Schema, Shape};
use crate::quantity::parse_size;

/// Reads one message into the API's JSON.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The API.
    pub schema: &'a Schema,
    /// Full name of the message.
    pub message: &'a str,
    /// Fields that are no part of the message and are kept as they are.
    pub beside: &'a [&'static str],
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a mapping with the fields of {}", short(self.message))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Object(Map::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = input.next_key_seed(Key(self))? {
            if read.contains_key(&name) {
                return Err(Error::custom(format!("`{name}` is given twice")));
            }
            let fields = self.schema.fields(self.message);
            let value = match fields.iter().find(|field| field.name == name) {
                Some(field) => input.next_value_seed(InField {
                    schema: self.schema,
                    field,
                })?,
                None => input.next_value::<Value>()?,
            };
            if !value.is_null() {
                read.insert(name, value);
            }
        }
        Ok(Value::Object(read))
    }
}

fn short(message: &str) -> &str {
    message.rsplit('.').next().unwrap_or(message)
}

/// A field's name; one that the message does not have is refused with those it has.
struct Key<'a>(Reader<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<String, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a field of {}", short(self.0.message))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        let Reader {
            schema,
            message,
            beside,
        } = self.0;
        let fields = schema.fields(message);
        if beside.contains(&name) || fields.iter().any(|field| field.name == name) {
            return Ok(name.to_owned());
        }
        let known: Vec<&str> = beside
            .iter()
            .copied()
            .chain(fields.iter().map(|f| f.name.as_str()))
            .collect();
        let near = nearest(name, &known)
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        Err(E::custom(
            format!(
                "{} has no field `{name}`{near} It has: {}",
                short(message),
                known.join(", ")
            )
            .replace("` It has", "`. It has"),
        ))
    }
}

/// The known word that was probably meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let with_unit = format!("{name}_bytes");
    if let Some(word) = known.iter().find(|word| **word == with_unit) {
        return Some(word);
    }
    let likeness = |word: &str| similar::TextDiff::from_chars(name, word).ratio();
    let best = known
        .iter()
        .copied()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.filter(|word| likeness(word) > 0.6)
}

/// A field's value.
struct InField<'a> {
    schema: &'a Schema,
    field: &'a Field,
}

impl<'de> DeserializeSeed<'de> for InField<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        if self.field.repeated {
            return input.deserialize_any(List(self));
        }
        match &self.field.shape {
            Shape::Message(message) => {
                let reader = Reader {
                    schema: self.schema,
                    message,
                    beside: &[],
                };
                reader.deserialize(input)
            }
            Shape::TextMap => input.deserialize_any(TextMap(&self.field.name)),
            _ => input.deserialize_any(Scalar(self)),
        }
    }
}

struct List<'a>(InField<'a>);

impl<'de> Visitor<'de> for List<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list for `{}`", self.0.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Array(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let field = Field {
            repeated: false,
            ..self.0.field.clone()
        };
        let mut items = Vec::new();
        while let Some(item) = input.next_element_seed(InField {
            schema: self.0.schema,
            field: &field,
        })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
}

struct TextMap<'a>(&'a str);

impl<'de> Visitor<'de> for TextMap<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a mapping of text to text for `{}`", self.0)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Object(Map::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = input.next_key::<String>()? {
            let value = input.next_value_seed(Word(&key))?;
            if read.insert(key.clone(), Value::String(value)).is_some() {
                return Err(Error::custom(format!("`{key}` is given twice")));
            }
        }
        Ok(Value::Object(read))
    }
}

/// Text that YAML must not take for something else.
struct Word<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Word<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<String, D::Error> {
        input.deserialize_any(self)
    }
}

impl Visitor<'_> for Word<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text for `{}`: write it in quotes", self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// Text, a number, a truth, a word of an enum.
struct Scalar<'a>(InField<'a>);

impl Scalar<'_> {
    fn name(&self) -> &str {
        &self.0.field.name
    }

    fn word<E: Error>(&self, of: &str, written: &str) -> Result<Value, E> {
        let values = self.0.schema.values(of);
        let plain = |text: &str| text.to_ascii_uppercase().replace('-', "_");
        let wanted = plain(written);
        let prefix = values
            .first()
            .and_then(|zero| zero.strip_suffix("UNSPECIFIED"))
            .unwrap_or("");
        let found = values
            .iter()
            .find(|value| **value == wanted || **value == format!("{prefix}{wanted}"));
        if let Some(value) = found {
            return Ok(Value::String(value.clone()));
        }
        let known: Vec<String> = values
            .iter()
            .skip(1)
            .map(|value| value.strip_prefix(prefix).unwrap_or(value).to_lowercase())
            .collect();
        Err(E::custom(format!(
            "`{}` cannot be \"{written}\": it is one of {}",
            self.name(),
            known.join(", ")
        )))
    }
}

impl Visitor<'_> for Scalar<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match &self.0.field.shape {
            Shape::Bool => write!(f, "true or false for `{name}`"),
            Shape::Integer if name.ends_with("_bytes") => {
                write!(f, "a size like 100GiB for `{name}`")
            }
            Shape::Integer => write!(f, "a whole number for `{name}`"),
            Shape::Enum(_) => write!(f, "a word for `{name}`"),
            _ => write!(f, "text for `{name}`: write it in quotes"),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        match self.0.field.shape {
            Shape::Bool => Ok(Value::Bool(value)),
            _ => Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        match &self.0.field.shape {
            Shape::Integer => Ok(Value::String(value.to_string())),
            Shape::Enum(of) => self.word(of, &value.to_string()),
            _ => Err(E::invalid_type(serde::de::Unexpected::Signed(value), &self)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        match &self.0.field.shape {
            Shape::Integer => Ok(Value::String(value.to_string())),
            Shape::Enum(of) => self.word(of, &value.to_string()),
            _ => Err(E::invalid_type(
                serde::de::Unexpected::Unsigned(value),
                &self,
            )),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Err(E::invalid_type(serde::de::Unexpected::Float(value), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        match &self.0.field.shape {
            Shape::Text | Shape::Time => Ok(Value::String(text.to_owned())),
            Shape::Enum(of) => self.word(of, text),
            Shape::Integer if text.parse::<i64>().is_ok() => Ok(Value::String(text.to_owned())),
            Shape::Integer if self.name().ends_with("_bytes") => {
                let bytes = parse_size(text).map_err(E::custom)?;
                Ok(Value::String(bytes.to_string()))
            }
            _ => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

/// The kind and name of a document, and nothing else of it: what decides how to read the rest.
pub struct Head {
    /// `kind`, where it is given.
    pub kind: Option<String>,
    /// `name`.
    pub name: Option<String>,
}

/// Reads only the head of a document.
pub struct HeadReader<'a>(
    /// Whether the document holds anything.
    pub &'a Cell<bool>,
);

impl<'de> DeserializeSeed<'de> for HeadReader<'_> {
    type Value = Head;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Head, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for HeadReader<'_> {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with kind, name, labels and spec")
    }

    fn visit_unit<E: Error>(self) -> Result<Head, E> {
        self.0.set(false);
        Ok(Head {
            kind: None,
            name: None,
        })
    }

    fn visit_none<E: Error>(self) -> Result<Head, E> {
        self.visit_unit()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Head, A::Error> {
        self.0.set(true);
        let mut head = Head {
            kind: None,
            name: None,
        };
        while let Some(key) = input.next_key::<String>()? {
            match key.as_str() {
                "kind" => head.kind = Some(input.next_value_seed(Word("kind"))?),
                "name" => head.name = Some(input.next_value_seed(Word("name"))?),
                _ => {
                    input.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        Ok(head)
    }
}
