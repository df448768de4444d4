//! Chat templates with bounded time and memory.
//!
//! minijinja's fuel covers instructions, output, and the strings and lists that they create, but not nested values: `[x, x]`,
//! sixty times over, has 2⁶⁰ items, and takes as long to write or compare. So every list and map is copied when it is created,
//! and fuel is charged for everything in it: no value is larger or deeper than the fuel allows, and none is lazy.

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Tuple, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::collections::BTreeMap;

/// Bytes of a template's source. The longest in use have about 20,000.
const MAX_SOURCE: usize = 1 << 16;
/// Bytes of the stack on which the source is parsed; only what is used is allocated.
const STACK: usize = 1 << 28;
/// Fuel of a rendering, in addition to that for its input; a long conversation takes about ten thousand.
const FUEL: u64 = 500_000;
/// Values nested in a value.
const MAX_PARTS: u64 = 1 << 18;
/// Nesting of lists and maps.
const MAX_DEPTH: usize = 24;
/// Values copied per unit of fuel, and bytes of a string that count as one value.
const VALUES_PER_FUEL: u64 = 4;
const BYTES_PER_VALUE: usize = 64;

/// Names of the charging filters; no template can use them.
const CHARGE: &str = "\0charge";
const CHARGE_STORED: &str = "\0charge-stored";

/// A template whose instructions charge fuel for the values they create.
#[derive(Debug)]
pub(crate) struct MeteredTemplate {
    main: Instructions<'static>,
    blocks: BTreeMap<&'static str, Instructions<'static>>,
}

impl MeteredTemplate {
    /// Compiles a template, and adds the filters it needs to the environment.
    ///
    /// # Errors
    /// A template that is not valid Jinja, or too long.
    pub(crate) fn new(environment: &mut Environment<'static>, name: &'static str, source: &str) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(Error::new(
                ErrorKind::SyntaxError,
                format!("it has {} bytes; the limit is {MAX_SOURCE}", source.len()),
            ));
        }
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        if multiplies_a_list(source, syntax.clone())? {
            return Err(Error::new(ErrorKind::SyntaxError, "multiplying a list is not supported"));
        }
        // instructions borrow their source, so it is leaked; a process reads only a few templates
        let source: &'static str = Box::leak(source.into());
        // the parser recurses as deeply as the source nests
        let read = move || {
            let tree = parse(source, name, syntax)?;
            let mut code = CodeGenerator::new(name, source);
            code.compile_stmt(&tree);
            Ok(code.finish())
        };
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(read);
        let thread = thread.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
        let (main, blocks) =
            thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::SyntaxError, "it cannot be read")))?;
        environment.set_unknown_method_callback(method);
        environment.add_filter(CHARGE, charge);
        environment.add_filter(CHARGE_STORED, charge_stored);
        let blocks = blocks.into_iter().map(|(name, code)| (name, with_metering(&code))).collect();
        Ok(Self { main: with_metering(&main), blocks })
    }

    /// Renders values whose strings have `bytes` bytes in total.
    ///
    /// # Errors
    /// An error of the template; more work, or larger values, than the limits.
    pub(crate) fn render(
        &self,
        environment: &Environment<'static>,
        values: Value,
        bytes: usize,
    ) -> Result<String, Error> {
        let mut environment = environment.clone();
        environment.set_fuel(Some(FUEL + bytes as u64));
        let mut text = String::new();
        eval(&environment, &self.main, values, &self.blocks, &mut make_string_output(&mut text), AutoEscape::None)?;
        Ok(text)
    }
}

/// Keywords after which an expression starts.
const KEYWORDS: [&str; 9] = ["and", "elif", "else", "if", "in", "is", "not", "or", "do"];

/// Whether a list literal is multiplied: minijinja would evaluate that when it compiles the template, where there is no fuel.
fn multiplies_a_list(source: &str, syntax: SyntaxConfig) -> Result<bool, Error> {
    #[derive(PartialEq)]
    enum Last {
        Operator,
        Times,
        Value,
        List,
    }
    #[derive(Default)]
    struct Open {
        is_multiplied: bool,
        is_list: bool,
        /// A call or an index.
        is_access: bool,
    }
    let (mut open, mut last): (Vec<Open>, _) = (vec![], Last::Operator);
    for token in tokenize(source, false, syntax) {
        last = match token?.0 {
            token @ (Token::BracketOpen | Token::ParenOpen | Token::BraceOpen) => {
                let is_access = matches!(last, Last::Value | Last::List);
                let is_list = matches!(token, Token::BracketOpen) && !is_access;
                open.push(Open { is_multiplied: last == Last::Times, is_list, is_access });
                Last::Operator
            }
            Token::BracketClose | Token::ParenClose | Token::BraceClose => {
                let Open { is_multiplied, is_list, is_access } = open.pop().unwrap_or_default();
                let is_list = is_list && !is_access;
                if is_list && is_multiplied {
                    return Ok(true);
                }
                open.last_mut().into_iter().for_each(|outer| outer.is_list |= is_list);
                if is_list { Last::List } else { Last::Value }
            }
            Token::Comma => {
                open.last_mut().into_iter().for_each(|outer| outer.is_list = true);
                Last::Operator
            }
            Token::Mul if last == Last::List => return Ok(true),
            Token::Mul => Last::Times,
            Token::Ident(word) if KEYWORDS.contains(&word) => Last::Operator,
            Token::Ident(_) | Token::Str(_) | Token::String(_) => Last::Value,
            Token::Int(_) | Token::Int128(_) | Token::Float(_) => Last::Value,
            _ => Last::Operator,
        };
    }
    Ok(false)
}

/// The same instructions, with fuel charged for each value that is created or compared.
fn with_metering(code: &Instructions<'static>) -> Instructions<'static> {
    let filter = |name| Instruction::ApplyFilter(name, Some(1), !0);
    let each = |instruction: &Instruction<'static>| -> Vec<Instruction<'static>> {
        let own = instruction.clone();
        match own {
            Instruction::BuildList(_)
            | Instruction::BuildTuple(_)
            | Instruction::BuildMap(_)
            | Instruction::Slice
            | Instruction::Add
            | Instruction::Mul
            | Instruction::ApplyFilter(..)
            | Instruction::CallFunction(..)
            | Instruction::CallMethod(..)
            | Instruction::CallObject(_) => vec![own, filter(CHARGE)],
            Instruction::Eq
            | Instruction::Ne
            | Instruction::Lt
            | Instruction::Lte
            | Instruction::Gt
            | Instruction::Gte
            | Instruction::In
            | Instruction::CompareAndPreserve(_)
            | Instruction::PerformTest(..) => vec![filter(CHARGE), own],
            Instruction::StringConcat => {
                vec![filter(CHARGE), Instruction::Swap, filter(CHARGE), Instruction::Swap, own]
            }
            // on the stack, the value is below the namespace that stores it
            Instruction::SetAttr(_) => vec![Instruction::Swap, filter(CHARGE_STORED), Instruction::Swap, own],
            // constants may be of any length, too
            Instruction::LoadConst(ref value)
                if value.as_object().is_some_and(|o| !o.type_name().contains("Kwargs")) =>
            {
                vec![own, filter(CHARGE)]
            }
            own => vec![own],
        }
    };
    let pieces: Vec<_> = (0..).map_while(|index| code.get(index)).map(each).collect();
    let mut starts = vec![0u32];
    for piece in &pieces {
        starts.push(starts[starts.len() - 1] + piece.len() as u32);
    }
    let mut metered = Instructions::new(code.name(), code.source());
    for (index, piece) in pieces.into_iter().enumerate() {
        let line = code.get_line(index as u32).unwrap_or(0) as u16;
        for mut instruction in piece {
            if let Instruction::Iterate(to)
            | Instruction::Jump(to)
            | Instruction::JumpIfFalse(to)
            | Instruction::JumpIfFalseOrPop(to)
            | Instruction::JumpIfTrueOrPop(to)
            | Instruction::BuildMacro(_, to, _) = &mut instruction
            {
                *to = starts[*to as usize];
            }
            metered.add_with_line(instruction, line);
        }
    }
    metered
}

/// Python's methods. `format` may create a string of any width, so it is charged in advance.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let ("format", Some(text)) = (name, value.as_str()) {
        let refuse = |problem: &str| Err(Error::new(ErrorKind::InvalidOperation, problem.to_owned()));
        let plain = text.replace("{{", "").replace("}}", "");
        let widths = plain.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let widths: Option<u64> = widths.map(|digits| digits.parse::<u16>().ok().map(u64::from)).sum();
        let is_nested = plain.split('{').skip(1).any(|place| !place.contains('}'));
        let (Some(widths), false) = (widths, is_nested) else {
            return refuse("`format` with a width of more than 65535, or one that is an argument");
        };
        if arguments.iter().any(|one| matches!(one.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)) {
            return refuse("`format` of a list or a map");
        }
        let longest = arguments.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0);
        let places = text.matches('{').count();
        state.consume_fuel((widths + (places * (longest + BYTES_PER_VALUE)) as u64) / BYTES_PER_VALUE as u64)?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

/// Charges for a value and everything in it.
fn charge(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    charge_at_depth(state, value, 0)
}

/// The same for a value that is stored in a namespace.
fn charge_stored(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
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
        ValueKind::Map if ["Namespace", "Loop", "Module", "Kwargs"].iter().any(|known| name.contains(known)) => {
            if name.ends_with("Namespace") {
                for key in value.try_iter()? {
                    charge_copy(state, &value.get_item(&key)?, depth + 1, count)?;
                }
            }
            Ok(value.clone())
        }
        ValueKind::Map => {
            let mut pairs = BTreeMap::new();
            for key in value.try_iter()? {
                let inner = value.get_item(&key)?;
                pairs
                    .insert(charge_copy(state, &key, depth + 1, count)?, charge_copy(state, &inner, depth + 1, count)?);
            }
            // map literals keep the order of their keys
            let is_written = ["StaticKeyMap", "BTreeMap"].iter().any(|known| name.contains(known));
            Ok(if is_written { value.clone() } else { Value::from(pairs) })
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
