//! The types: their fields, and how each is written, merged and named.
//!
//! The facts lie in the program's text; a type becomes a [`Type`] when it is first asked for.

use std::cmp::Ordering;
use std::fmt;
use std::sync::OnceLock;

mod parse;

static BLOB: &str = include_str!(concat!(env!("OUT_DIR"), "/types.blob"));
static ENUMS: &str = include_str!(concat!(env!("OUT_DIR"), "/enums.txt"));
include!(concat!(env!("OUT_DIR"), "/index.rs"));

static TYPES: [OnceLock<Box<Type>>; OFFSETS.len() - 1] = [const { OnceLock::new() }; OFFSETS.len() - 1];

/// The type of a kind; `group` is empty for the core group. The kinds that every group has (`DeleteOptions`,
/// `Status`, `List`, …) are found in any.
#[must_use]
pub fn type_of(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    reference_of(group, version, kind).map(TypeRef::get)
}

/// As [`type_of`], without reading the type.
pub(crate) fn reference_of(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    let group = if group.is_empty() { "-" } else { group };
    let package = PACKAGES.lines().find_map(|line| {
        let (name, served) = line.split_once(' ')?;
        (served.split_once(' ')? == (group, version)).then_some(name)
    });
    let object = |package| reference(package, kind).filter(|ty| ty.is_kind());
    package.and_then(object).or_else(|| object(META))
}

/// The type with a name as in OpenAPI: `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn type_named(name: &str) -> Option<&'static Type> {
    let (package, name) = name.rsplit_once('.')?;
    reference(package, name).map(TypeRef::get)
}

/// All types, sorted by name.
pub fn all() -> impl ExactSizeIterator<Item = TypeRef> {
    (0..TYPES.len()).map(|id| TypeRef(u16::try_from(id).unwrap_or(u16::MAX)))
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A type of the API.
#[derive(Debug)]
pub struct Type {
    /// As in OpenAPI: `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// Sorted by name. Those of embedded types are among them, because in JSON they are.
    pub fields: Box<[Field]>,
    /// The embedded types: messages of their own in protobuf.
    pub embedded: Box<[Embedded]>,
    /// The kind that objects of this type have, if they are objects by themselves.
    pub kind: Option<Gvk>,
    /// Is replaced as a whole by a server-side apply.
    pub atomic: bool,
}

/// Group, version and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gvk {
    /// Empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
}

/// A type whose fields are fields of another.
#[derive(Debug)]
pub struct Embedded {
    /// Its number in protobuf; 0 for those that protobuf does not have.
    pub number: u32,
    /// What is embedded.
    pub ty: TypeRef,
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// What its values are.
    pub shape: Shape,
    /// Its number in protobuf; 0 if it has none.
    pub number: u32,
    /// Clients must give it.
    pub required: bool,
    /// Go tells an absent from a zero value.
    pub pointer: bool,
    /// Go writes it even when it is empty.
    pub always: bool,
    /// Go leaves a struct out when it is zero.
    pub omit_zero: bool,
    /// Where its line begins in the blob: what is asked seldom is read there.
    line: u32,
    embedded: Option<Box<str>>,
}

/// What the values of a field are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// true or false.
    Bool,
    /// Bytes, as base64 in JSON.
    Bytes,
    /// A span of time as Go writes it: `1h2m3s`.
    Duration,
    /// The set of fields that a manager owns: JSON of its own form; one member of bytes in protobuf.
    Fields,
    /// A 64 bit floating point number.
    Float,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// An integer of 32 bits, or a string.
    IntOrString,
    /// Any JSON value; one member of bytes in protobuf.
    Json,
    /// A list.
    List(Box<Self>),
    /// A map with string keys.
    Map(Box<Self>),
    /// A time in RFC 3339 with microseconds.
    MicroTime,
    /// An object with known fields.
    Object(TypeRef),
    /// A quantity: `500m`, `1Gi`.
    Quantity,
    /// Any JSON value that is kept byte for byte.
    Raw,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or true or false.
    SchemaOrBool,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
    /// A string.
    String,
    /// A time in RFC 3339 with whole seconds.
    Time,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing is said: objects are merged, lists are replaced.
    #[default]
    Unset,
    /// Lists are merged.
    Merge,
    /// Lists are merged; of their elements only the keys in `$retainKeys` stay.
    MergeRetainKeys,
    /// Replaced as a whole.
    Replace,
    /// Of the object only the keys in `$retainKeys` stay.
    RetainKeys,
}

/// How server-side apply treats a list or a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// Nothing is said.
    #[default]
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// Merged member by member.
    Granular,
    /// Elements are told apart by these of their fields, separated by commas.
    Map(&'static str),
    /// Elements are unique.
    Set,
}

/// A type in the table, found without searching.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeRef(u16);

impl Type {
    /// The field with a name; names are case sensitive.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        self.fields.get(index)
    }

    /// The field with a number in protobuf; those of embedded types are not among them.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| field.number == number && number != 0 && field.embedded_in().is_none())
    }

    /// The name in Go: `v1.Pod`.
    #[must_use]
    pub fn go(&self) -> &'static str {
        let mut dots = self.name.rmatch_indices('.').map(|(at, _)| at);
        let start = dots.nth(1).map_or(0, |at| at + 1);
        &self.name[start..]
    }

    /// The last part of its name: `Pod`.
    #[must_use]
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

impl Field {
    /// How a strategic merge patch treats it.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        match self.flag("p=") {
            Some("merge") => Strategy::Merge,
            Some("merge,retainKeys") => Strategy::MergeRetainKeys,
            Some("replace") => Strategy::Replace,
            Some("retainKeys") => Strategy::RetainKeys,
            _ => Strategy::Unset,
        }
    }

    /// The field that tells elements of a merged list apart.
    #[must_use]
    pub fn merge_key(&self) -> Option<&'static str> {
        self.flag("k=")
    }

    /// How server-side apply treats it.
    #[must_use]
    pub fn list(&self) -> List {
        match self.flag("l=") {
            None => List::Unset,
            Some("atomic") => List::Atomic,
            Some("granular") => List::Granular,
            Some("set") => List::Set,
            Some(list) => List::Map(list.strip_prefix("map:").unwrap_or_default()),
        }
    }

    /// The default that the schema tells, as JSON.
    #[must_use]
    pub fn default(&self) -> Option<&'static str> {
        self.flag("d=")
    }

    /// The path of embedded types that it comes from, in Go's names: `VolumeSource`.
    #[must_use]
    pub fn embedded_in(&self) -> Option<&str> {
        self.embedded.as_deref()
    }

    /// The name of its type in Go without pointer: `[]v1.Container`.
    #[must_use]
    pub fn go(&self) -> String {
        self.go_name().map_or_else(|| self.shape.go(), |name| name.trim_end_matches('!').to_owned())
    }

    /// The values that a string (or an element of a list of strings) may have, as the schema tells; `package` is the one of its type.
    #[must_use]
    pub fn values(&self, package: &str) -> Option<Vec<&'static str>> {
        let name = self.go_name()?.strip_suffix('!')?.rsplit(['.', ']']).next()?;
        let values = |wanted: &str| {
            ENUMS.lines().find_map(|line| {
                let line = line.strip_prefix(wanted)?.strip_prefix('.')?.strip_prefix(name)?;
                line.strip_prefix(' ').map(|values| values.split('|').collect())
            })
        };
        values(package).or_else(|| values("io.k8s.api.core.v1"))
    }

    /// The name of its type in Go where the shape does not tell it, with `!` if it has values of its own.
    fn go_name(&self) -> Option<&'static str> {
        self.words().nth(2)?.split_once('=').map(|(_, name)| name)
    }

    fn flag(&self, prefix: &str) -> Option<&'static str> {
        self.words().skip(3).find_map(|word| word.strip_prefix(prefix))
    }

    fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        let line = BLOB.get(self.line as usize..).and_then(|rest| rest.lines().next());
        line.unwrap_or_default().trim_start().split(' ')
    }
}

impl Shape {
    /// The type of the object, of the elements of the list, or of the values of the map.
    #[must_use]
    pub fn object(&self) -> Option<&'static Type> {
        match self {
            Self::Object(ty) => Some(ty.get()),
            Self::List(of) | Self::Map(of) => of.object(),
            _ => None,
        }
    }

    /// A list, but not of bytes.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }

    /// The name of the type in Go.
    #[must_use]
    pub fn go(&self) -> String {
        match self {
            Self::Bool => "bool".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Duration => "v1.Duration".to_owned(),
            Self::Fields => "v1.FieldsV1".to_owned(),
            Self::Float => "float64".to_owned(),
            Self::Int32 => "int32".to_owned(),
            Self::Int64 => "int64".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Json => "interface {}".to_owned(),
            Self::List(of) => format!("[]{}", of.go()),
            Self::Map(of) => format!("map[string]{}", of.go()),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Object(ty) => ty.get().go().to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::Raw => "runtime.RawExtension".to_owned(),
            Self::SchemaOrArray => "v1.JSONSchemaPropsOrArray".to_owned(),
            Self::SchemaOrBool => "v1.JSONSchemaPropsOrBool".to_owned(),
            Self::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".to_owned(),
            Self::String => "string".to_owned(),
            Self::Time => "v1.Time".to_owned(),
        }
    }
}

impl List {
    /// The fields that tell elements apart.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        let keys = if let Self::Map(keys) = self { keys } else { "" };
        keys.split(',').filter(|key| !key.is_empty())
    }
}

impl TypeRef {
    /// The type.
    #[must_use]
    pub fn get(self) -> &'static Type {
        TYPES[usize::from(self.0)].get_or_init(|| Box::new(parse::parse(self.lines())))
    }

    /// The type without keeping it: for what looks at many types once.
    #[must_use]
    pub fn read(self) -> Type {
        parse::parse(self.lines())
    }

    /// Its name, without reading more of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.lines().split([' ', '\n']).next().unwrap_or_default()
    }

    fn is_kind(self) -> bool {
        self.lines().lines().next().is_some_and(|head| head.split(' ').any(|word| word == "kind"))
    }

    fn lines(self) -> &'static str {
        let id = usize::from(self.0);
        &BLOB[OFFSETS[id] as usize..OFFSETS[id + 1] as usize]
    }
}

impl fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TypeRef({})", self.name())
    }
}

/// Finds a type in the sorted table, without reading it.
pub(crate) fn reference(package: &str, name: &str) -> Option<TypeRef> {
    let (mut low, mut high) = (0, TYPES.len());
    while low < high {
        let middle = low.midpoint(high);
        let found = TypeRef(u16::try_from(middle).ok()?);
        match found.name().bytes().cmp(package.bytes().chain([b'.']).chain(name.bytes())) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(found),
        }
    }
    None
}

#[cfg(test)]
mod tests;
