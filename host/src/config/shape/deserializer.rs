//! A `serde` deserializer of TOML that knows where it is and says what was wanted there.
//!
//! One rule of its own: where a type has several shapes (an `enum`) and the value is a table, it is the variant whose name
//! is one of the table's keys, or else the last. So a pool with `upstreams` is one of upstreams.
//!
//! And where something else stands in for a value, it is whatever is wanted: 1, an empty text, an empty list.

use std::{fmt, ops::Range};

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        VariantAccess, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Mended, Path};

/// A place in a file.
#[derive(Debug)]
pub(super) struct Node<'a, 'i> {
    value: Item<'a, 'i>,
    path: Path,
    at: Range<usize>,
    mended: &'a Mended,
}

#[derive(Debug, Clone, Copy)]
enum Item<'a, 'i> {
    Table(&'a DeTable<'i>),
    Value(&'a DeValue<'i>),
    /// Something else stands in for what is wrong or missing.
    StandIn,
}

/// Something that cannot be read.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) path: Path,
    /// Where it is in the text.
    pub(super) at: Option<usize>,
    pub(super) what: What,
}

/// What is wrong.
#[derive(Debug)]
pub(super) enum What {
    Missing(&'static str),
    Unknown {
        field: String,
        known: &'static [&'static str],
    },
    Wanted {
        wanted: Wanted,
        found: String,
    },
    /// In the words of whoever looked at it.
    Said(String),
}

/// What was to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Text,
    Whole,
    Number,
    Flag,
    List,
    Table,
    OneOf(&'static [&'static str]),
    /// Any other problem, as it is worded where it was found.
    Words(String),
}

impl std::error::Error for Wrong {}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path.join("."), self.what)
    }
}

impl Wrong {
    const fn what(what: What) -> Self {
        Self { path: Vec::new(), at: None, what }
    }
}

impl Error for Wrong {
    fn custom<T: fmt::Display>(said: T) -> Self {
        Self::what(What::Said(said.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::what(What::Wanted { wanted: Wanted::Words(wanted.to_string()), found: shown(&found) })
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid_type(found, wanted)
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::what(What::Wanted { wanted: Wanted::OneOf(known), found: format!("\"{found}\"") })
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::what(What::Unknown { field: field.into(), known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::what(What::Missing(field))
    }
}

/// A value that a visitor did not want, as it would be written.
fn shown(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Str(text) => format!("\"{text}\""),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map | Unexpected::StructVariant => "a table".into(),
        Unexpected::Char(letter) => letter.to_string(),
        Unexpected::Bytes(_) | Unexpected::Unit | Unexpected::Option | Unexpected::NewtypeStruct => {
            "something else".into()
        }
        Unexpected::Enum | Unexpected::UnitVariant | Unexpected::NewtypeVariant | Unexpected::TupleVariant => {
            "a name".into()
        }
        Unexpected::Other(other) => (*other).to_owned(),
    }
}

impl<'a, 'i> Node<'a, 'i> {
    pub(super) fn root(file: &'a Spanned<DeTable<'i>>, mended: &'a Mended) -> Self {
        Self { value: Item::Table(file.get_ref()), path: Vec::new(), at: 0..0, mended }
    }

    /// What is at a place below this one.
    fn below(&self, part: String, value: Option<&'a DeValue<'i>>, at: Range<usize>) -> Self {
        let path: Path = self.path.iter().cloned().chain([part]).collect();
        let value = value.filter(|_| !self.mended.stood_in.contains(&path)).map_or(Item::StandIn, Item::Value);
        Self { value, path, at, mended: self.mended }
    }

    const fn is_stand_in(&self) -> bool {
        matches!(self.value, Item::StandIn)
    }

    fn refuse<T>(&self, wanted: Wanted) -> Result<T, Wrong> {
        let found = match self.value {
            Item::Table(_) | Item::Value(DeValue::Table(_)) => "a table".into(),
            Item::StandIn => "nothing".into(),
            Item::Value(DeValue::Array(_)) => "a list".into(),
            Item::Value(DeValue::String(text)) => format!("\"{text}\""),
            Item::Value(DeValue::Integer(number)) => number.to_string(),
            Item::Value(DeValue::Float(number)) => number.to_string(),
            Item::Value(DeValue::Boolean(flag)) => flag.to_string(),
            Item::Value(DeValue::Datetime(date)) => date.to_string(),
        };
        Err(self.here(Wrong::what(What::Wanted { wanted, found })))
    }

    /// What has no place yet is here.
    fn here(&self, mut wrong: Wrong) -> Wrong {
        if wrong.at.is_none() {
            wrong.at = Some(self.at.start);
            wrong.path.clone_from(&self.path);
        }
        wrong
    }

    const fn table(&self) -> Option<&'a DeTable<'i>> {
        match self.value {
            Item::Table(table) | Item::Value(DeValue::Table(table)) => Some(table),
            Item::Value(_) | Item::StandIn => None,
        }
    }

    fn whole(&self) -> Option<i128> {
        let Item::Value(DeValue::Integer(number)) = self.value else { return self.is_stand_in().then_some(1) };
        i128::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn unsigned<'de, V: Visitor<'de>>(&self, most: u64, visitor: V) -> Result<V::Value, Wrong> {
        match self.whole().and_then(|number| u64::try_from(number).ok()).filter(|number| *number <= most) {
            Some(number) => visitor.visit_u64(number).map_err(|wrong| self.here(wrong)),
            None => self.refuse(Wanted::Whole),
        }
    }

    fn signed<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Wrong> {
        match self.whole().and_then(|number| i64::try_from(number).ok()) {
            Some(number) => visitor.visit_i64(number).map_err(|wrong| self.here(wrong)),
            None => self.refuse(Wanted::Whole),
        }
    }

    fn visit_table<'de, V: Visitor<'de>>(&self, table: Option<&'a DeTable<'i>>, visitor: V) -> Result<V::Value, Wrong> {
        let is_left_out = |name: &str| {
            let left_out =
                |path: &Path| path.split_last().is_some_and(|(last, rest)| last == name && rest == self.path);
            self.mended.left_out.iter().any(left_out)
        };
        let there = table.into_iter().flatten();
        let mut entries: Vec<_> = there
            .map(|(name, value)| (name.get_ref().to_string(), name.span(), Some(value.get_ref())))
            .filter(|(name, _, _)| !is_left_out(name))
            .collect();
        // What is missing and stood in for.
        let added = self.mended.stood_in.iter().filter_map(|path| path.split_last());
        let added = added.filter(|(name, rest)| {
            *rest == self.path && !is_left_out(name) && !table.is_some_and(|table| table.contains_key(name.as_str()))
        });
        entries.extend(added.map(|(name, _)| (name.clone(), self.at.clone(), None)));
        let entries = Entries { of: self, rest: entries.into_iter(), value: None };
        visitor.visit_map(entries).map_err(|wrong| self.here(wrong))
    }

    fn visit_list<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Wrong> {
        let items = match self.value {
            Item::Value(DeValue::Array(items)) => items.iter().enumerate().collect::<Vec<_>>(),
            Item::StandIn => Vec::new(),
            Item::Table(_) | Item::Value(_) => return self.refuse(Wanted::List),
        };
        let items = Items { of: self, items: items.into_iter() };
        visitor.visit_seq(items).map_err(|wrong| self.here(wrong))
    }
}

macro_rules! unsigned {
    ($($method:ident: $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.unsigned(u64::try_from(<$type>::MAX).unwrap_or(u64::MAX), visitor)
        }
    )*};
}

macro_rules! signed {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.signed(visitor)
        }
    )*};
}

macro_rules! numbers {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let number = match self.value {
                Item::Value(DeValue::Float(number)) => number.as_str().parse().ok(),
                Item::Value(DeValue::Integer(number)) => number.as_str().parse().ok(),
                Item::StandIn => Some(1.0),
                Item::Table(_) | Item::Value(_) => None,
            };
            match number {
                Some(number) => visitor.visit_f64(number).map_err(|wrong| self.here(wrong)),
                None => self.refuse(Wanted::Number),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_, '_> {
    type Error = Wrong;

    unsigned!(deserialize_u8: u8, deserialize_u16: u16, deserialize_u32: u32, deserialize_u64: u64);
    signed!(deserialize_i8, deserialize_i16, deserialize_i32, deserialize_i64);
    numbers!(deserialize_f32, deserialize_f64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            Item::Table(table) | Item::Value(DeValue::Table(table)) => self.visit_table(Some(table), visitor),
            Item::Value(DeValue::Array(_)) => self.visit_list(visitor),
            Item::Value(DeValue::String(text)) => visitor.visit_str(text).map_err(|wrong| self.here(wrong)),
            Item::Value(DeValue::Integer(_)) | Item::StandIn => self.signed(visitor),
            Item::Value(DeValue::Float(_)) => self.deserialize_f64(visitor),
            Item::Value(DeValue::Boolean(flag)) => visitor.visit_bool(*flag).map_err(|wrong| self.here(wrong)),
            Item::Value(DeValue::Datetime(date)) => {
                visitor.visit_string(date.to_string()).map_err(|wrong| self.here(wrong))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            Item::Value(DeValue::Boolean(flag)) => visitor.visit_bool(*flag).map_err(|wrong| self.here(wrong)),
            Item::StandIn => visitor.visit_bool(false),
            Item::Table(_) | Item::Value(_) => self.refuse(Wanted::Flag),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            Item::Value(DeValue::String(text)) => visitor.visit_str(text).map_err(|wrong| self.here(wrong)),
            Item::StandIn => visitor.visit_str("").map_err(|wrong| self.here(wrong)),
            Item::Table(_) | Item::Value(_) => self.refuse(Wanted::Text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.visit_list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.table() {
            None if !self.is_stand_in() => self.refuse(Wanted::Table),
            table => self.visit_table(table, visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let variant = match self.value {
            Item::Value(DeValue::String(text)) => text.to_string(),
            Item::Table(table) | Item::Value(DeValue::Table(table)) => {
                let named = variants.iter().find(|name| table.contains_key(**name)).or(variants.last());
                named.map(|name| (*name).to_owned()).unwrap_or_default()
            }
            Item::StandIn => variants.last().map(|name| (*name).to_owned()).unwrap_or_default(),
            Item::Value(_) => return self.refuse(Wanted::OneOf(variants)),
        };
        let (path, at) = (self.path.clone(), self.at.start);
        let place = |mut wrong: Wrong| {
            if wrong.at.is_none() {
                (wrong.at, wrong.path) = (Some(at), path);
            }
            wrong
        };
        visitor.visit_enum(Variant { node: self, name: variant, all: variants }).map_err(place)
    }

    forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any i128 u128 }
}

/// A name, where it stands, and its value, unless something else stands in for that.
type Entry<'a, 'i> = (String, Range<usize>, Option<&'a DeValue<'i>>);

/// The entries of a table.
struct Entries<'n, 'a, 'i> {
    of: &'n Node<'a, 'i>,
    rest: std::vec::IntoIter<Entry<'a, 'i>>,
    value: Option<Node<'a, 'i>>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_, '_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((name, at, value)) = self.rest.next() else { return Ok(None) };
        // A table begins where its name stands.
        self.value = Some(self.of.below(name.clone(), value, at.clone()));
        let key: StrDeserializer<'_, Wrong> = name.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mut wrong| {
            // It is the table that does not know the name, which stands here.
            if wrong.at.is_none() {
                (wrong.at, wrong.path) = (Some(at.start), self.of.path.clone());
            }
            wrong
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        match self.value.take() {
            Some(node) => {
                let (path, at) = (node.path.clone(), node.at.start);
                seed.deserialize(node).map_err(|mut wrong| {
                    if wrong.at.is_none() {
                        (wrong.at, wrong.path) = (Some(at), path);
                    }
                    wrong
                })
            }
            None => Err(Wrong::custom("a value was asked for before its name")),
        }
    }
}

/// The items of a list.
struct Items<'n, 'a, 'i> {
    of: &'n Node<'a, 'i>,
    items: std::vec::IntoIter<(usize, &'a Spanned<DeValue<'i>>)>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_, '_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some((n, item)) = self.items.next() else { return Ok(None) };
        let node = self.of.below(format!("[{n}]"), Some(item.get_ref()), item.span());
        if self.of.mended.left_out.contains(&node.path) {
            return self.next_element_seed(seed);
        }
        seed.deserialize(node).map(Some)
    }
}

/// One of several shapes.
struct Variant<'a, 'i> {
    node: Node<'a, 'i>,
    name: String,
    all: &'static [&'static str],
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Wrong> {
        let name: StrDeserializer<'_, Wrong> = self.name.as_str().into_deserializer();
        let value = seed.deserialize(name)?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        if self.node.table().is_some() { self.node.refuse(Wanted::OneOf(self.all)) } else { Ok(()) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Wrong> {
        let is_table = self.node.is_stand_in() || self.node.table().is_some();
        if is_table { seed.deserialize(self.node) } else { self.node.refuse(Wanted::Table) }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.node.visit_list(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Wrong> {
        self.node.deserialize_map(visitor)
    }
}
