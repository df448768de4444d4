//! The filters, tests and functions of jinja2 where minijinja has none, or others; and none that jinja2 lacks.

use crate::metering::{charge, charge_bytes};
use crate::python_format::percent;
use crate::python_methods::{bind, item, join_strings, split_lines};
use crate::python_value::{
    JsonOptions, compare, contains, fail, integer, integer_argument, is_dict, number, python_str, sorted_by,
    width_argument,
};
use indexmap::IndexMap;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value};
use std::cmp::Ordering;
use std::sync::Arc;

/// A filter: its value and arguments.
type FilterFn = fn(&mut State<'_, '_>, &Value, &[Value]) -> Result<Value, Error>;

const FILTERS: [(&str, FilterFn); 28] = [
    ("tojson", tojson),
    ("string", |_, value, _| if value.is_safe() { Ok(value.clone()) } else { python_str(value).map(Value::from) }),
    ("e", escape),
    ("escape", escape),
    ("forceescape", |state, value, _| escaped(state, &python_str(value)?)),
    ("join", join),
    ("format", format),
    ("sort", sort),
    ("dictsort", dictsort),
    ("min", |state, value, arguments| extreme(state, value, arguments, Ordering::Less)),
    ("max", |state, value, arguments| extreme(state, value, arguments, Ordering::Greater)),
    ("unique", unique),
    ("groupby", groupby),
    ("map", map),
    ("select", |state, value, arguments| select(state, value, arguments, false, true)),
    ("reject", |state, value, arguments| select(state, value, arguments, false, false)),
    ("selectattr", |state, value, arguments| select(state, value, arguments, true, true)),
    ("rejectattr", |state, value, arguments| select(state, value, arguments, true, false)),
    ("default", default),
    ("d", default),
    ("int", int),
    ("float", float),
    ("round", round),
    ("indent", indent),
    ("center", center),
    ("list", |state, value, _| items(state, value).map(Value::from)),
    ("first", |state, value, _| Ok(items(state, value)?.first().cloned().unwrap_or_default())),
    ("last", |state, value, _| Ok(items(state, value)?.last().cloned().unwrap_or_default())),
];

/// What minijinja has beyond jinja2.
const OTHER_FILTERS: [&str; 7] = ["attr", "bool", "chain", "lines", "pprint", "split", "zip"];
const OTHER_TESTS: [&str; 4] = ["endingwith", "int", "safe", "startingwith"];

/// Adds them to an environment.
pub(crate) fn add_to(environment: &mut Environment<'static>) {
    for (name, filter) in FILTERS {
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            let (value, rest) = arguments.split_first().ok_or_else(|| fail(format!("`{name}` of nothing")))?;
            filter(state, value, rest)
        });
    }
    environment.add_filter("\0batch", minijinja::filters::batch);
    environment.add_filter("\0slice", minijinja::filters::slice);
    environment.add_filter("\0sum", minijinja::filters::sum);
    environment.add_filter("\0reverse", minijinja::filters::reverse);
    for (name, library) in [("batch", "\0batch"), ("slice", "\0slice"), ("sum", "\0sum"), ("reverse", "\0reverse")] {
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            match arguments.first() {
                Some(value) if value.is_none() => Err(fail(format!("`{name}` of none"))),
                _ => state.apply_filter(library, &arguments),
            }
        });
    }
    OTHER_FILTERS.iter().for_each(|name| environment.remove_filter(name));
    OTHER_TESTS.iter().for_each(|name| environment.remove_test(name));
    environment.remove_global("debug");
    let is = |orderings: &'static [Ordering]| {
        move |a: &Value, b: &Value| Ok::<_, Error>(compare(a, b)?.is_some_and(|order| orderings.contains(&order)))
    };
    for name in ["lt", "<", "lessthan"] {
        environment.add_test(name, is(&[Ordering::Less]));
    }
    for name in ["le", "<="] {
        environment.add_test(name, is(&[Ordering::Less, Ordering::Equal]));
    }
    for name in ["gt", ">", "greaterthan"] {
        environment.add_test(name, is(&[Ordering::Greater]));
    }
    for name in ["ge", ">="] {
        environment.add_test(name, is(&[Ordering::Greater, Ordering::Equal]));
    }
    environment.add_test("in", |item: &Value, container: &Value| contains(container, item));
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Undefined) || is_dict(value)
    });
    environment.add_test("iterable", |value: &Value| {
        is_dict(value)
            || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Undefined)
    });
    environment.add_test("callable", |value: &Value| {
        let name = value.as_object().map_or("", |object| object.type_name());
        ["BoundMethod", "Function", "Macro"].iter().any(|callable| name.contains(callable))
    });
    environment.add_function("dict", dict);
    environment.add_function("namespace", namespace);
}

/// The items of a list, the characters of a text, the keys of a map.
fn items(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::None => Err(fail("none has no items")),
        _ => {
            let items: Vec<Value> = value.try_iter()?.collect();
            charge_bytes(state, items.len() * size_of::<Value>())?;
            Ok(items)
        }
    }
}

fn tojson(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        bind(arguments, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match (indent.kind(), indent.as_str()) {
        (ValueKind::None | ValueKind::Undefined, _) => None,
        (_, Some(text)) => Some(text.to_owned()),
        _ => {
            let width = width_argument(&indent, 0)?;
            charge_bytes(state, width)?;
            Some(" ".repeat(width))
        }
    };
    let separators = match separators.kind() {
        ValueKind::None | ValueKind::Undefined => {
            [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()]
        }
        _ => {
            let both: Vec<String> =
                separators.try_iter()?.filter_map(|text| text.as_str().map(str::to_owned)).collect();
            both.try_into().map_err(|_| fail("tojson: `separators` are two texts"))?
        }
    };
    let options =
        JsonOptions { ensure_ascii: ensure_ascii.is_true(), indent, separators, sort_keys: sort_keys.is_true() };
    let mut text = String::new();
    options.write(state, value, 0, &mut text)?;
    Ok(text.into())
}

fn escape(state: &mut State<'_, '_>, value: &Value, _: &[Value]) -> Result<Value, Error> {
    if value.is_safe() { Ok(value.clone()) } else { escaped(state, &python_str(value)?) }
}

/// As markupsafe escapes.
fn escaped(state: &State<'_, '_>, text: &str) -> Result<Value, Error> {
    charge_bytes(state, text.len() * 5)?;
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '\'' => result.push_str("&#39;"),
            '"' => result.push_str("&#34;"),
            c => result.push(c),
        }
    }
    Ok(Value::from_safe_string(result))
}

fn join(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [separator, attribute] = bind(arguments, ["d", "attribute"])?;
    let keys = attribute_keys(state, value, &attribute)?;
    let texts = keys.iter().map(|(key, _)| python_str(key)).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    join_strings(state, &python_str(&separator)?, &texts).map(Value::from)
}

fn format(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    if value.is_safe() {
        return Err(fail("`format` of text that is marked safe or escaped is not supported"));
    }
    let arguments: Vec<Value> = match arguments {
        [named] if named.is_kwargs() => {
            let named = Kwargs::try_from(named.clone())?;
            let fields = named.args().map(|name| Ok((Value::from(name), named.peek::<Value>(name)?)));
            vec![Value::from_object(fields.collect::<Result<IndexMap<Value, Value>, Error>>()?)]
        }
        positional => positional.to_vec(),
    };
    percent(state, &python_str(value)?, &arguments).map(Value::from)
}

/// What is at a path such as `function.name` or `0`; the item itself where there is none.
fn at_path(value: &Value, path: &Value) -> Result<Value, Error> {
    if let Some(index) = integer(path) {
        return item(value, &Value::from(index as i64));
    }
    let Some(path) = path.as_str() else { return Ok(value.clone()) };
    path.split('.').try_fold(value.clone(), |value, part| match part.parse::<i64>() {
        Ok(index) => item(&value, &Value::from(index)),
        Err(_) => item(&value, &Value::from(part)),
    })
}

/// Each item, after what it has at a path.
fn attribute_keys(state: &State<'_, '_>, value: &Value, path: &Value) -> Result<Vec<(Value, Value)>, Error> {
    items(state, value)?.into_iter().map(|item| Ok((at_path(&item, path)?, item))).collect()
}

fn folded(key: Value, is_case_sensitive: bool) -> Value {
    match key.as_str() {
        Some(text) if !is_case_sensitive => text.to_lowercase().into(),
        _ => key,
    }
}

fn in_order<T: Clone>(
    state: &State<'_, '_>,
    keyed: Vec<(Value, T)>,
    is_reversed: bool,
) -> Result<Vec<(Value, T)>, Error> {
    charge_bytes(state, keyed.len() * 64 * (1 + keyed.len().checked_ilog2().unwrap_or(0) as usize))?;
    sorted_by(keyed, |(a, _), (b, _)| Ok(if is_reversed { compare(b, a)? } else { compare(a, b)? }))
}

fn sort(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [reverse, case_sensitive, attribute] = bind(arguments, ["reverse", "case_sensitive", "attribute"])?;
    let mut keyed = vec![];
    for item in items(state, value)? {
        let paths: Vec<Value> = match attribute.as_str() {
            Some(paths) => paths.split(',').map(Value::from).collect(),
            None => vec![attribute.clone()],
        };
        let key = paths.iter().map(|path| Ok(folded(at_path(&item, path)?, case_sensitive.is_true())));
        keyed.push((Value::from(key.collect::<Result<Vec<_>, Error>>()?), item));
    }
    let sorted = in_order(state, keyed, reverse.is_true())?;
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}

fn dictsort(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [case_sensitive, by, reverse] = bind(arguments, ["case_sensitive", "by", "reverse"])?;
    let position = match by.as_str() {
        None | Some("key") => 0,
        Some("value") => 1,
        Some(other) => return Err(fail(format!("dictsort by `{other}`: it sorts by key or value"))),
    };
    if !is_dict(value) {
        return Err(fail(format!("dictsort of {}", value.kind())));
    }
    let mut keyed = vec![];
    for key in items(state, value)? {
        let pair = [key.clone(), value.get_item(&key)?];
        keyed.push((folded(pair[position].clone(), case_sensitive.is_true()), pair));
    }
    let sorted = in_order(state, keyed, reverse.is_true())?;
    Ok(sorted.into_iter().map(|(_, pair)| Value::from(Tuple::from(pair.to_vec()))).collect())
}

fn extreme(state: &State<'_, '_>, value: &Value, arguments: &[Value], ordering: Ordering) -> Result<Value, Error> {
    let [case_sensitive, attribute] = bind(arguments, ["case_sensitive", "attribute"])?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in attribute_keys(state, value, &attribute)? {
        let key = folded(key, case_sensitive.is_true());
        let is_better = match &best {
            Some((best, _)) => compare(&key, best)? == Some(ordering),
            None => true,
        };
        best = if is_better { Some((key, item)) } else { best };
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn unique(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [case_sensitive, attribute] = bind(arguments, ["case_sensitive", "attribute"])?;
    let mut items = IndexMap::new();
    for (key, item) in attribute_keys(state, value, &attribute)? {
        items.entry(folded(key, case_sensitive.is_true())).or_insert(item);
    }
    Ok(items.into_values().collect())
}

/// A key and its items: a pair whose parts have names.
#[derive(Debug)]
struct GroupPair([Value; 2]);

impl Object for GroupPair {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = match key.as_str() {
            Some("grouper") => 0,
            Some("list") => 1,
            _ => key.as_usize()?,
        };
        self.0.get(index).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

fn groupby(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [attribute, default, case_sensitive] = bind(arguments, ["attribute", "default", "case_sensitive"])?;
    let mut keyed = vec![];
    for (key, item) in attribute_keys(state, value, &attribute)? {
        let key = if key.is_undefined() && !default.is_undefined() { default.clone() } else { key };
        keyed.push((folded(key.clone(), case_sensitive.is_true()), (key, item)));
    }
    let mut groups: Vec<(Value, Value, Vec<Value>)> = vec![];
    for (folded, (key, item)) in in_order(state, keyed, false)? {
        match groups.last_mut() {
            Some((last, _, items)) if *last == folded => items.push(item),
            _ => groups.push((folded, key, vec![item])),
        }
    }
    Ok(groups.into_iter().map(|(_, key, items)| Value::from_object(GroupPair([key, items.into()]))).collect())
}

fn map(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let mut results = vec![];
    match arguments.split_first() {
        // none has no items elsewhere, but nothing to map
        _ if !value.is_true() => {}
        Some((first, rest)) if !first.is_kwargs() => {
            let filter = first.as_str().ok_or_else(|| fail("map: the name of a filter is text"))?;
            for item in items(state, value)? {
                let arguments: Vec<Value> = std::iter::once(item).chain(rest.iter().cloned()).collect();
                let result = state.apply_filter(filter, &arguments)?;
                results.push(charge(state, result)?);
            }
        }
        _ => {
            let [attribute, default] = bind(arguments, ["attribute", "default"])?;
            if attribute.is_undefined() {
                return Err(fail("map takes a filter or an `attribute`"));
            }
            for (key, _) in attribute_keys(state, value, &attribute)? {
                results.push(if key.is_undefined() { default.clone() } else { key });
            }
        }
    }
    Ok(results.into())
}

/// Items that pass a test, or fail it; of themselves, or of what they have at a path.
fn select(
    state: &mut State<'_, '_>,
    value: &Value,
    arguments: &[Value],
    is_attribute: bool,
    expected: bool,
) -> Result<Value, Error> {
    let (path, arguments) = match arguments.split_first() {
        _ if !value.is_true() => return Ok(Value::from(Vec::<Value>::new())),
        Some((path, rest)) if is_attribute => (path.clone(), rest),
        None if is_attribute => return Err(fail("it takes the name of an attribute")),
        _ => (Value::UNDEFINED, arguments),
    };
    let mut results = vec![];
    for (key, item) in attribute_keys(state, value, &path)? {
        let passes = match arguments.split_first() {
            None => key.is_true(),
            Some((test, rest)) => {
                let test = test.as_str().ok_or_else(|| fail("the name of a test is text"))?;
                let arguments: Vec<Value> = std::iter::once(key).chain(rest.iter().cloned()).collect();
                state.perform_test(test, &arguments)?
            }
        };
        results.extend((passes == expected).then_some(item));
    }
    Ok(results.into())
}

fn default(_: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [default, boolean] = bind(arguments, ["default_value", "boolean"])?;
    let is_missing = value.is_undefined() || (boolean.is_true() && !value.is_true());
    Ok(match is_missing {
        true if default.is_undefined() && arguments.is_empty() => "".into(),
        true => default,
        false => value.clone(),
    })
}

/// A number's text without its underscores, which stand between digits.
fn plain_digits(text: &str) -> Option<String> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let is_digit =
        |index: Option<usize>| index.and_then(|index| bytes.get(index)).is_some_and(u8::is_ascii_alphanumeric);
    let holds = (0..bytes.len())
        .filter(|index| bytes[*index] == b'_')
        .all(|index| is_digit(index.checked_sub(1)) && is_digit(Some(index + 1)));
    holds.then(|| text.replace('_', ""))
}

fn parse_integer(text: &str, base: u32) -> Option<i128> {
    let text = plain_digits(text)?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => ["0b", "0B"],
        8 => ["0o", "0O"],
        16 => ["0x", "0X"],
        _ => ["\0", "\0"],
    };
    let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
    let is_plain = digits.starts_with(|c: char| c.is_ascii_alphanumeric());
    i128::from_str_radix(&format!("{sign}{digits}"), base).ok().filter(|_| is_plain)
}

fn parse_float(text: &str) -> Option<f64> {
    let text = plain_digits(text)?;
    let name = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let is_number = name.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    (is_number || ["inf", "infinity", "nan"].contains(&name.as_str())).then(|| text.parse().ok()).flatten()
}

fn int(_: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [default, base] = bind(arguments, ["default", "base"])?;
    let default = if default.is_undefined() { Value::from(0) } else { default };
    let base = u32::try_from(integer_argument(&base, 10)?).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| fail("int: a base from 2 to 36"))?;
    let truncated = |x: f64| {
        let integer = x.trunc();
        if integer.abs() >= 1.7e38 {
            return Err(fail("int: a number of more than 38 digits is not supported"));
        }
        Ok(i64::try_from(integer as i128).map_or_else(|_| Value::from(integer as i128), Value::from))
    };
    let fits = |n: i128| i64::try_from(n).map_or_else(|_| Value::from(n), Value::from);
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Err(fail("int of what is undefined")),
        (_, Some(text)) => match (parse_integer(text, base), parse_float(text)) {
            (Some(n), _) => Ok(fits(n)),
            (None, Some(x)) if x.is_finite() => truncated(x),
            _ => Ok(default),
        },
        (ValueKind::Number | ValueKind::Bool, _) => match integer(value) {
            Some(n) => Ok(fits(n)),
            None => truncated(number(value)?),
        },
        _ => Ok(default),
    }
}

fn float(_: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [default] = bind(arguments, ["default"])?;
    let default = if default.is_undefined() { Value::from(0.0) } else { default };
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Err(fail("float of what is undefined")),
        (_, Some(text)) => Ok(parse_float(text).map_or(default, Value::from)),
        (ValueKind::Number | ValueKind::Bool, _) => number(value).map(Value::from),
        _ => Ok(default),
    }
}

fn round(_: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [precision, method] = bind(arguments, ["precision", "method"])?;
    let precision = integer_argument(&precision, 0)?;
    let x = number(value)?;
    if !x.is_finite() || precision.abs() > 300 {
        return Err(fail("round: a number or a precision that is not supported"));
    }
    let scale = 10f64.powi(precision as i32);
    match method.as_str().unwrap_or("common") {
        "floor" => Ok(((x * scale).floor() / scale).into()),
        "ceil" => Ok(((x * scale).ceil() / scale).into()),
        "common" => match (integer(value), precision) {
            (Some(n), 0..) => Ok(i64::try_from(n).map_or_else(|_| Value::from(n), Value::from)),
            (None, 0..) => {
                let text = std::format!("{x:.*}", precision as usize);
                text.parse::<f64>().map(Value::from).map_err(|_| fail("round of a number that is none"))
            }
            _ => Err(fail("round to less than ones is not supported")),
        },
        other => Err(fail(std::format!("round by `{other}`: it rounds by common, floor or ceil"))),
    }
}

fn indent(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [width, first, blank] = bind(arguments, ["width", "first", "blank"])?;
    let text = value.as_str().ok_or_else(|| fail(std::format!("indent of {}, not of text", value.kind())))?;
    let indentation = match width.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let width = width_argument(&width, 4)?;
            charge_bytes(state, width)?;
            " ".repeat(width)
        }
    };
    // a line end at the end of the text starts a line
    let whole = std::format!("{text}\n");
    let lines = split_lines(&whole, false);
    charge_bytes(state, text.len().saturating_add(indentation.len().saturating_mul(lines.len())))?;
    let mut result = String::new();
    for (index, line) in lines.iter().enumerate() {
        result.push_str(if index > 0 { "\n" } else { "" });
        let is_indented = if index == 0 { first.is_true() } else { blank.is_true() || !line.is_empty() };
        result.push_str(if is_indented { &indentation } else { "" });
        result.push_str(line);
    }
    Ok(if value.is_safe() { Value::from_safe_string(result) } else { result.into() })
}

fn center(state: &mut State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [width] = bind(arguments, ["width"])?;
    let width = if width.is_undefined() { Value::from(80) } else { width };
    Value::from(python_str(value)?).call_method(state, "center", &[width])
}

/// `dict(a=1)`, `dict(other, a=1)`, `dict([(key, value)])`.
fn dict(arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut fields: IndexMap<Value, Value> = IndexMap::new();
    for argument in arguments.into_values() {
        if argument.is_kwargs() || is_dict(&argument) {
            for key in argument.try_iter()? {
                fields.insert(key.clone(), argument.get_item(&key)?);
            }
            continue;
        }
        for pair in argument.try_iter()? {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            let [key, value]: [Value; 2] = pair.try_into().map_err(|_| fail("dict: an item that is no pair"))?;
            fields.insert(key, value);
        }
    }
    Ok(Value::from_object(fields))
}

fn namespace(arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let fields = dict(arguments)?;
    if fields.try_iter()?.any(|name| name.as_str().is_none_or(|name| name.starts_with('_'))) {
        return Err(fail("a namespace has no attribute that begins with an underscore"));
    }
    let (fields,) = from_args(&[fields])?;
    minijinja::functions::namespace(fields)
}
