//! The messages of the API, from their descriptors: which fields they have and of what type.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::failure::{Failure, Outcome};

/// All messages and enums, by full name without the leading dot.
pub struct Schema {
    messages: BTreeMap<String, Vec<Field>>,
    enums: BTreeMap<String, Vec<String>>,
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// As the protobuf has it.
    pub name: String,
    /// What it holds.
    pub shape: Shape,
    /// Whether it holds a list of that.
    pub repeated: bool,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    Text,
    /// True or false.
    Bool,
    /// A whole number.
    Integer,
    /// Values of this enum.
    Enum(String),
    /// This message.
    Message(String),
    /// Text by text.
    TextMap,
    /// A time, as text.
    Time,
    /// Nothing that is read from files.
    Other,
}

impl Schema {
    /// As this program was built.
    pub fn load() -> Outcome<Self> {
        let set = FileDescriptorSet::decode(penstock_api::FILE_DESCRIPTOR_SET);
        let set = set.map_err(|error| Failure::other(format!("the API's descriptors: {error}")))?;
        let mut schema = Self {
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
        };
        for file in &set.file {
            for message in &file.message_type {
                schema.add(file.package(), message);
            }
            for word in &file.enum_type {
                let values = word
                    .value
                    .iter()
                    .map(|value| value.name().to_owned())
                    .collect();
                schema
                    .enums
                    .insert(format!("{}.{}", file.package(), word.name()), values);
            }
        }
        Ok(schema)
    }

    fn add(&mut self, package: &str, message: &DescriptorProto) {
        let entries = message.nested_type.iter();
        let maps: Vec<String> = entries
            .filter(|inner| {
                inner
                    .options
                    .as_ref()
                    .is_some_and(|options| options.map_entry())
            })
            .map(|inner| inner.name().to_owned())
            .collect();
        let fields = message
            .field
            .iter()
            .map(|field| field_of(field, &maps))
            .collect();
        self.messages
            .insert(format!("{package}.{}", message.name()), fields);
    }

    /// The fields of a message; none where it is not known.
    pub fn fields(&self, message: &str) -> &[Field] {
        self.messages.get(message).map_or(&[], Vec::as_slice)
    }

    /// The values of an enum.
    pub fn values(&self, word: &str) -> &[String] {
        self.enums.get(word).map_or(&[], Vec::as_slice)
    }
}

fn field_of(field: &FieldDescriptorProto, maps: &[String]) -> Field {
    let of = field.type_name().trim_start_matches('.').to_owned();
    let is_map = maps.iter().any(|map| of.ends_with(&format!(".{map}")));
    let shape = match field.r#type() {
        Type::String => Shape::Text,
        Type::Bool => Shape::Bool,
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 => Shape::Integer,
        Type::Enum => Shape::Enum(of),
        Type::Message if is_map => Shape::TextMap,
        Type::Message if of == "google.protobuf.Timestamp" => Shape::Time,
        Type::Message => Shape::Message(of),
        _ => Shape::Other,
    };
    Field {
        name: field.name().to_owned(),
        shape,
        repeated: field.label() == Label::Repeated && !is_map,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_from_the_descriptors() {
        let schema = Schema::load().unwrap();
        let find = |message: &str, name: &str| {
            let fields = schema.fields(&format!("penstock.v1.{message}"));
            fields
                .iter()
                .find(|field| field.name == name)
                .cloned()
                .unwrap()
        };
        assert_eq!(find("Volume", "labels").shape, Shape::TextMap);
        assert_eq!(find("Volume", "create_time").shape, Shape::Time);
        assert_eq!(find("VolumeSpec", "size_bytes").shape, Shape::Integer);
        assert_eq!(
            find("VolumeSpec", "stripe").shape,
            Shape::Message("penstock.v1.Stripe".into())
        );
        assert!(find("SubsystemSpec", "hosts").repeated);
        assert!(!find("NodeSpec", "failure_domains").repeated);
        let values = schema.values("penstock.v1.BlockSize");
        assert!(values.contains(&"BLOCK_SIZE_512".to_owned()), "{values:?}");
    }

    #[test]
    fn nothing_that_users_write_has_a_shape_that_files_cannot_hold() {
        let schema = Schema::load().unwrap();
        let specs = schema
            .messages
            .iter()
            .filter(|(name, _)| name.ends_with("Spec"));
        for (name, fields) in specs {
            assert!(
                fields.iter().all(|field| field.shape != Shape::Other),
                "{name}"
            );
        }
    }
}
