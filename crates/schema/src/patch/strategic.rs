//! Strategic merge patch: a merge patch that knows which lists are sets and by which key their items are told apart, and
//! directives beside the data.
//!
//! | directive | meaning |
//! |---|---|
//! | `$patch: replace` in a map | the map is replaced, not merged |
//! | `$patch: delete` in a map | the map becomes empty; in an item of a list, the item of that key goes |
//! | `$patch: replace` in an item of a list | the list is replaced by the other items |
//! | `$retainKeys: [k…]` in a map | members not named go |
//! | `$deleteFromPrimitiveList/f: [v…]` | these values leave the list f |
//! | `$setElementOrder/f: [v…]` | the order that the items of f shall have, those of the object between them |
//!
//! The behaviour, with its corners, is that of `k8s.io/apimachinery/pkg/util/strategicpatch`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::encode::{encode, sprint};
use crate::table;
use crate::{Error, Field, Kind, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Applies a strategic merge patch to an object of the type `ty`.
///
/// # Errors
///
/// [`Kind::Malformed`] for directives of the wrong form, [`Kind::Unprocessable`] for lists of lists, [`Kind::Patch`] for a
/// patch that does not fit the type or the object: an item without its merge key, an unknown field with a directive.
pub fn strategic(object: &Value, patch: &Value, ty: &'static Type) -> Result<Value, Error> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        let found = match patch {
            Value::Array(_) => "array",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            _ => "string",
        };
        let text = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        return Err(Error::new(Kind::Malformed, text));
    };
    merge_map(object.clone(), patch.clone(), Some(ty)).map(Value::Object)
}

/// Merges `patch` into `object`. `ty` is their type, `None` where it is a free map.
fn merge_map(
    mut object: Map<String, Value>,
    mut patch: Map<String, Value>,
    ty: Option<&'static Type>,
) -> Result<Map<String, Value>, Error> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.shift_remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut object, &mut patch)?;
    merge_ordered_lists(&mut object, &mut patch, ty)?;
    for (key, value) in patch {
        if let Some(rest) = key.strip_prefix(DELETE_FROM) {
            let field = list_name(rest, "invalid patch format of primitive list")?;
            delete_from(&mut object, field, value, ty)?;
        } else if value.is_null() {
            object.shift_remove(&key);
        } else {
            let merged = match (object.get_mut(&key).map(Value::take), value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let field = lookup(ty, &key)?;
                    Some(Value::Object(if field.strategy() == table::Strategy::Replace {
                        new
                    } else {
                        merge_map(old, new, object_type(&field.shape))?
                    }))
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    Some(Value::Array(merge_list(old, new, lookup_list(ty, &key)?)?))
                }
                (_, mut new) => {
                    discard_nulls(&mut new);
                    without_directives(new)
                }
            };
            match merged {
                Some(merged) => drop(object.insert(key, merged)),
                None => drop(object.shift_remove(&key)),
            }
        }
    }
    Ok(object)
}

/// `$retainKeys`: what the object has beyond the named members goes; the patch may set none but these.
fn retain_keys(object: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(named) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || Error::new(Kind::Malformed, "invalid patch format of retainKeys");
    let Value::Array(named) = named else { return Err(malformed()) };
    let named: HashSet<&str> = named.iter().filter_map(Value::as_str).collect();
    for (key, value) in &*patch {
        let directive = key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
        if !value.is_null() && !directive && !named.contains(key.as_str()) {
            return Err(malformed());
        }
    }
    object.retain(|key, _| named.contains(key.as_str()));
    Ok(())
}

/// Takes the lists with a `$setElementOrder` out of the patch and merges them, each in its order.
fn merge_ordered_lists(
    object: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    ty: Option<&'static Type>,
) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.shift_remove(&directive) else { continue };
        let order = into_list(order)?;
        let key = list_name(&directive[SET_ORDER.len()..], "invalid patch format of setElementOrder list")?;
        let field = lookup_list(ty, key)?;
        let old = object.get_mut(key).map(Value::take).map(into_list).transpose()?;
        let new = patch.shift_remove(key).map(into_list).transpose()?;
        check_order(new.as_deref().unwrap_or_default(), &order, field.merge_key())?;
        let server = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) => merge_list(old, new, field)?,
            (None, None) => continue,
        };
        if !merged.is_empty() || !server.is_empty() {
            element_is_map(&[&server, &merged])?;
        }
        let ordered = interleave(merged, &order, &server, field.merge_key())?;
        object.insert(key.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// The items of the patch must stand in the order that `$setElementOrder` names, and all be named there.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in patch {
        if let Some(key) = key {
            let members = as_map(item)?;
            if members.contains_key(DIRECTIVE) {
                continue;
            }
            let wanted = members.get(key).ok_or_else(|| no_merge_key(members, key))?;
            let mut found = false;
            for place in places.by_ref() {
                let members = as_map(place)?;
                if members.get(key).ok_or_else(|| no_merge_key(members, key))? == wanted {
                    found = true;
                    break;
                }
            }
            if found {
                continue;
            }
        } else if places.by_ref().any(|place| place == item) {
            continue;
        }
        let [patch, order] = [patch, order].map(|list| sprint(&Value::Array(list.to_vec())));
        let message =
            format!("The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n");
        return Err(Error::new(Kind::Patch, message));
    }
    Ok(())
}

fn delete_from(
    object: &mut Map<String, Value>,
    key: &str,
    values: Value,
    ty: Option<&'static Type>,
) -> Result<(), Error> {
    if values.is_null() {
        object.shift_remove(key);
        return Ok(());
    }
    let (Some(Value::Array(list)), Value::Array(values)) = (object.get_mut(key), values) else {
        return Ok(());
    };
    lookup_list(ty, key)?;
    if list.is_empty() && values.is_empty() {
        return Ok(());
    }
    if element_is_map(&[list, &values])? {
        let message = format!(
            "cannot merge lists without merge key for {}",
            if ty.is_some() { "struct" } else { "map" }
        );
        return Err(Error::new(Kind::Patch, message));
    }
    let gone: HashSet<Vec<u8>> = values.iter().map(encode).collect();
    list.retain(|value| !gone.contains(&encode(value)));
    Ok(())
}

fn merge_list(object: Vec<Value>, patch: Vec<Value>, field: &'static Field) -> Result<Vec<Value>, Error> {
    if !matches!(field.strategy(), table::Strategy::Merge | table::Strategy::MergeRetainKeys) {
        return Ok(patch);
    }
    if object.is_empty() && patch.is_empty() {
        return Ok(object);
    }
    if !element_is_map(&[&object, &patch])? {
        let mut seen = HashSet::new();
        let both = object.iter().chain(&patch).filter(|value| seen.insert(encode(value))).cloned().collect();
        return interleave(both, &patch, &object, None);
    }
    let Some(key) = field.merge_key() else {
        return Err(Error::new(Kind::Patch, "cannot merge lists without merge key for struct"));
    };
    let (object, patch) = apply_item_directives(object, patch, key)?;
    let order =
        patch.iter().map(|item| Ok(key_only(as_map(item)?, key))).collect::<Result<Vec<_>, Error>>()?;
    let server =
        object.iter().map(|item| Ok(key_only(as_map(item)?, key))).collect::<Result<Vec<_>, Error>>()?;
    let merged = merge_items(object, patch, key, field.shape.object())?;
    interleave(merged, &order, &server, Some(key))
}

/// Obeys the items that are directives, and answers both lists without them.
fn apply_item_directives(
    mut object: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut items = Vec::with_capacity(patch.len());
    let mut gone = HashSet::new();
    let mut replace = false;
    for item in patch {
        let members = as_map(&item)?;
        let Some(directive) = members.get(DIRECTIVE) else {
            items.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let value = members.get(key).ok_or_else(|| no_merge_key(members, key))?;
                gone.insert(encode(value));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(Error::new(Kind::Patch, "merging lists cannot yet be specified in the patch"));
            }
            _ => return Err(unknown_directive(directive, members)),
        }
    }
    if replace {
        return Ok((items, Vec::new()));
    }
    if !gone.is_empty() {
        object.retain(|item| item.get(key).is_none_or(|value| !gone.contains(&encode(value))));
    }
    Ok((object, items))
}

fn merge_items(
    mut object: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
    ty: Option<&'static Type>,
) -> Result<Vec<Value>, Error> {
    let mut places = HashMap::new();
    for (place, item) in object.iter().enumerate() {
        if let Some(value) = item.get(key) {
            places.entry(encode(value)).or_insert(place);
        }
    }
    for item in patch {
        let Value::Object(item) = item else { return Err(bad_argument("map[string]interface {}", &item)) };
        let value = encode(item.get(key).ok_or_else(|| no_merge_key(&item, key))?);
        match places.get(&value) {
            Some(place) => {
                let Value::Object(old) = object[*place].take() else { continue };
                object[*place] = Value::Object(merge_map(old, item, ty)?);
            }
            None => {
                places.insert(value, object.len());
                object.push(Value::Object(item));
            }
        }
    }
    Ok(object)
}

/// Orders a merged list: the items that `order` names stand as it says; the others, which the patch does not know of, keep the
/// order of `server` and their places between the named ones as far as the two orders agree.
fn interleave(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, Error> {
    let identity = |item: &Value| -> Result<Vec<u8>, Error> {
        let Some(key) = key else { return Ok(encode(item)) };
        let members = as_map(item)?;
        members.get(key).map(encode).ok_or_else(|| no_merge_key(members, key))
    };
    let places = |list: &[Value]| -> Result<HashMap<Vec<u8>, usize>, Error> {
        let mut places = HashMap::with_capacity(list.len());
        for (place, item) in list.iter().enumerate() {
            places.entry(identity(item)?).or_insert(place);
        }
        Ok(places)
    };
    let (wanted, live) = (places(order)?, places(server)?);
    let mut named = Vec::new();
    let mut others = Vec::new();
    for item in merged {
        let id = identity(&item)?;
        let at = live.get(&id).copied();
        match wanted.get(&id) {
            Some(place) => named.push((*place, at, item)),
            None => others.push((at.unwrap_or(usize::MAX), at, item)),
        }
    }
    named.sort_by_key(|(place, _, _)| *place);
    others.sort_by_key(|(place, _, _)| *place);
    let mut all = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, named_at, item) in named {
        while let Some((_, other_at, _)) = others.peek() {
            if !matches!((other_at, named_at), (Some(other), Some(named)) if *other < named) {
                break;
            }
            all.extend(others.next().map(|(_, _, other)| other));
        }
        all.push(item);
    }
    all.extend(others.map(|(_, _, other)| other));
    Ok(all)
}

/// Whether the items of these lists are maps. All must be of one kind, and that no list.
fn element_is_map(lists: &[&[Value]]) -> Result<bool, Error> {
    let mut items = lists.iter().copied().flatten();
    let Some(first) = items.next() else {
        return Err(Error::new(Kind::Patch, "no elements in any of the given slices"));
    };
    if first.is_array() {
        return Err(Error::new(Kind::Unprocessable, "lists of lists are not supported"));
    }
    if items.any(|item| go_type(item) != go_type(first)) {
        let printed: Vec<String> = lists.iter().map(|list| sprint(&Value::Array(list.to_vec()))).collect();
        return Err(Error::new(
            Kind::Patch,
            format!("list element types are not identical: [{}]", printed.join(" ")),
        ));
    }
    Ok(first.is_object())
}

/// A value of the patch that the object had nothing of its kind for, without directives; nothing if it was one.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(members) if members.contains_key(DIRECTIVE) => None,
        Value::Object(members) => Some(Value::Object(
            members
                .into_iter()
                .filter_map(|(key, member)| Some((key, without_directives(member)?)))
                .collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

fn lookup(ty: Option<&'static Type>, key: &str) -> Result<&'static Field, Error> {
    let Some(ty) = ty else {
        let message = "merging an object in json but data type is not struct, instead is: map".to_owned();
        return Err(Error::new(Kind::Patch, message));
    };
    ty.field(key).ok_or_else(|| {
        Error::new(
            Kind::Patch,
            format!("unable to find api field in struct {} for the json field {key:?}", ty.short_name()),
        )
    })
}

/// The type of a field that is an object; a map of objects is none.
fn object_type(shape: &Shape) -> Option<&'static Type> {
    if let Shape::Object(ty) = shape { Some(ty.get()) } else { None }
}

fn lookup_list(ty: Option<&'static Type>, key: &str) -> Result<&'static Field, Error> {
    let field = lookup(ty, key)?;
    if !field.shape.is_list() {
        return Err(Error::new(Kind::Patch, "expected slice or array type, but got: struct"));
    }
    Ok(field)
}

/// The field that `…/field` names.
fn list_name<'a>(rest: &'a str, otherwise: &str) -> Result<&'a str, Error> {
    rest.strip_prefix('/').ok_or_else(|| Error::new(Kind::Malformed, otherwise.to_owned()))
}

fn key_only(members: &Map<String, Value>, key: &str) -> Value {
    Value::Object(
        members.get_key_value(key).map(|(key, value)| (key.clone(), value.clone())).into_iter().collect(),
    )
}

fn into_list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(bad_argument("[]interface {}", &other)),
    }
}

fn as_map(value: &Value) -> Result<&Map<String, Value>, Error> {
    value.as_object().ok_or_else(|| bad_argument("map[string]interface {}", value))
}

fn bad_argument(expected: &str, actual: &Value) -> Error {
    Error::new(Kind::Patch, format!("expected a {expected}, but received a {}", go_type(actual)))
}

fn no_merge_key(members: &Map<String, Value>, key: &str) -> Error {
    let members = sprint(&Value::Object(members.clone()));
    Error::new(Kind::Patch, format!("map: {members} does not contain declared merge key: {key}"))
}

fn unknown_directive(directive: &Value, members: &Map<String, Value>) -> Error {
    let members = sprint(&Value::Object(members.clone()));
    Error::new(Kind::Patch, format!("unknown patch type: {} in map: {members}", sprint(directive)))
}

/// Go's name of the type that its JSON decoder makes of a value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests;
