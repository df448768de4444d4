//! Fuel for the values that a template creates: what keeps its time and memory bounded.

use indexmap::IndexMap;
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Values nested in a value.
const MAX_PARTS: u64 = 1 << 18;
/// Nesting of lists and maps.
const MAX_DEPTH: usize = 24;
/// Values copied per unit of fuel, and bytes of a string that count as one value.
const VALUES_PER_FUEL: u64 = 4;
const BYTES_PER_VALUE: usize = 64;

/// Charges for text before it is created.
///
/// # Errors
/// No fuel is left.
pub(crate) fn charge_bytes(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_VALUE) as u64)
}

/// Charges for a value and everything in it.
pub(crate) fn charge(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    charge_at_depth(state, value, 0)
}

/// The same for a value that is stored in a namespace.
pub(crate) fn charge_stored(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    charge_at_depth(state, value, 1)
}

fn charge_at_depth(state: &State<'_, '_>, value: Value, depth: usize) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => charge_copy(state, &value, depth, &mut 0),
        _ => Ok(value),
    }
}

/// Copies a value; `count` is the number of values copied so far.
fn charge_copy(state: &State<'_, '_>, value: &Value, depth: usize, count: &mut u64) -> Result<Value, Error> {
    let refuse = |problem: String| Err(Error::new(ErrorKind::InvalidOperation, problem));
    *count += 1 + value.as_str().map_or(0, str::len).div_euclid(BYTES_PER_VALUE) as u64;
    if count.is_multiple_of(VALUES_PER_FUEL) {
        state.consume_fuel(1)?;
    }
    if *count > MAX_PARTS {
        return refuse(format!("it creates a value with more than {MAX_PARTS} parts"));
    }
    if depth > MAX_DEPTH {
        return refuse(format!("it nests lists or maps more than {MAX_DEPTH} deep"));
    }
    let name = value.as_object().map_or("", |object| object.type_name());
    match value.kind() {
        ValueKind::Map if name.ends_with("Namespace") && depth > 0 => {
            refuse("it stores a namespace in another value".into())
        }
        // mutable values, and those that are not made of values, are not copied
        ValueKind::Map
            if ["Namespace", "Loop", "Module", "Kwargs", "Macro"].iter().any(|known| name.contains(known)) =>
        {
            if name.ends_with("Namespace") {
                for key in value.try_iter()? {
                    charge_copy(state, &value.get_item(&key)?, depth + 1, count)?;
                }
            }
            Ok(value.clone())
        }
        ValueKind::Map => {
            let mut pairs = IndexMap::new();
            for key in value.try_iter()? {
                let inner = value.get_item(&key)?;
                pairs
                    .insert(charge_copy(state, &key, depth + 1, count)?, charge_copy(state, &inner, depth + 1, count)?);
            }
            Ok(Value::from_object(pairs))
        }
        ValueKind::Seq if name.ends_with("GroupPair") => {
            for part in value.try_iter()? {
                charge_copy(state, &part, depth + 1, count)?;
            }
            Ok(value.clone())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = vec![];
            for item in value.try_iter()? {
                items.push(charge_copy(state, &item, depth + 1, count)?);
            }
            Ok(if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
        }
        ValueKind::Invalid => refuse("it creates an invalid value".into()),
        _ => Ok(value.clone()),
    }
}
