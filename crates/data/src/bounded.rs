//! Templates that end: what one may do is bounded in time and memory, whatever it says.
//!
//! minijinja's fuel pays for instructions, output, and the texts and lists that they make, but not for what lies within a value:
//! `[x, x]`, sixty times over, is as long as 2⁶⁰, and so is writing or comparing it. So every list and map is copied as it is
//! made, at a price for all that lies in it: none is larger or deeper than its template has paid for, and none is put together
//! only when it is looked at.

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Tuple, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::collections::BTreeMap;

/// Bytes of a template's source. The longest in use have some 20,000.
const SOURCE: usize = 1 << 16;
/// Bytes of the stack on which that is read; no more of it is taken than is used.
const STACK: usize = 1 << 28;
/// Fuel of a rendering beside that for its input; a long conversation takes some ten thousand.
const FUEL: u64 = 500_000;
/// Values within a value.
const LARGEST: u64 = 1 << 18;
/// Lists and maps within one another.
const DEEPEST: usize = 24;
/// Values that are copied for one of fuel, and bytes of their texts.
const COPIED: u64 = 4;
const BYTES: usize = 64;

/// What stands for `paid` and `kept`; no template can name them.
const PAID: &str = "\0paid";
const KEPT: &str = "\0kept";

/// A template whose instructions pay for what they make.
#[derive(Debug)]
pub(crate) struct MeteredTemplate {
    main: Instructions<'static>,
    blocks: BTreeMap<&'static str, Instructions<'static>>,
}

impl MeteredTemplate {
    /// Reads a template for an environment, which learns what it needs to run it.
    ///
    /// # Errors
    /// A template that is no Jinja, or longer than any.
    pub(crate) fn new(environment: &mut Environment<'static>, name: &'static str, source: &str) -> Result<Self, Error> {
        if source.len() > SOURCE {
            return Err(Error::new(
                ErrorKind::SyntaxError,
                format!("it has {} bytes; at most {SOURCE} are read", source.len()),
            ));
        }
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        if multiplies_a_list(source, syntax.clone())? {
            return Err(Error::new(ErrorKind::SyntaxError, "it multiplies a list, which no conversation needs"));
        }
        // instructions point into their source; a process reads one template, or a few
        let source: &'static str = Box::leak(source.into());
        // signs and brackets may stand within one another as deep as the source is long
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
        environment.add_filter(PAID, charge);
        environment.add_filter(KEPT, charge_value);
        let blocks = blocks.into_iter().map(|(name, code)| (name, with_metering(&code))).collect();
        Ok(Self { main: with_metering(&main), blocks })
    }

    /// What it writes of values with texts of so many bytes.
    ///
    /// # Errors
    /// What it refuses; more work, or larger values, than any conversation needs.
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

/// Words after which a value begins.
const KEYWORDS: [&str; 9] = ["and", "elif", "else", "if", "in", "is", "not", "or", "do"];

/// Whether a list that stands in the source is multiplied: minijinja would do so, and compare or write what comes of it, while it
/// reads the template, where there is no fuel.
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
        /// A call or a place within a value.
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

/// The same instructions, where each that makes a value pays for it, and each that looks within one.
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
            | Instruction::CallObject(_) => vec![own, filter(PAID)],
            Instruction::Eq
            | Instruction::Ne
            | Instruction::Lt
            | Instruction::Lte
            | Instruction::Gt
            | Instruction::Gte
            | Instruction::In
            | Instruction::CompareAndPreserve(_)
            | Instruction::PerformTest(..) => vec![filter(PAID), own],
            Instruction::StringConcat => {
                vec![filter(PAID), Instruction::Swap, filter(PAID), Instruction::Swap, own]
            }
            // the value lies below the namespace that keeps it
            Instruction::SetAttr(_) => vec![Instruction::Swap, filter(KEPT), Instruction::Swap, own],
            // what is known before anything runs may be of any length too
            Instruction::LoadConst(ref value)
                if value.as_object().is_some_and(|o| !o.type_name().contains("Kwargs")) =>
            {
                vec![own, filter(PAID)]
            }
            own => vec![own],
        }
    };
    let pieces: Vec<_> = (0..).map_while(|place| code.get(place)).map(each).collect();
    let mut starts = vec![0u32];
    for piece in &pieces {
        starts.push(starts[starts.len() - 1] + piece.len() as u32);
    }
    let mut paying = Instructions::new(code.name(), code.source());
    for (place, piece) in pieces.into_iter().enumerate() {
        let line = code.get_line(place as u32).unwrap_or(0) as u16;
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
            paying.add_with_line(instruction, line);
        }
    }
    paying
}

/// Python's methods. `format` makes a text as long as it is told to, so that it pays before.
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
        state.consume_fuel((widths + (places * (longest + BYTES)) as u64) / BYTES as u64)?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

/// A value of its own, with all that lies in it.
fn charge(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    whole(state, value, 0)
}

/// A value that a namespace keeps.
fn charge_value(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    whole(state, value, 1)
}

fn whole(state: &State<'_, '_>, value: Value, depth: usize) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => charge_copy(state, &value, depth, &mut 0),
        _ => Ok(value),
    }
}

/// Copies a value; `count` are those copied so far.
fn charge_copy(state: &State<'_, '_>, value: &Value, depth: usize, count: &mut u64) -> Result<Value, Error> {
    let refuse = |problem: String| Err(Error::new(ErrorKind::InvalidOperation, problem));
    *count += 1 + value.as_str().map_or(0, str::len).div_euclid(BYTES) as u64;
    if count.is_multiple_of(COPIED) {
        state.consume_fuel(1)?;
    }
    if *count > LARGEST {
        return refuse(format!("it makes a value of more than {LARGEST} parts"));
    }
    if depth > DEEPEST {
        return refuse(format!("it makes lists or maps more than {DEEPEST} deep"));
    }
    let name = value.as_object().map_or("", |object| object.type_name());
    match value.kind() {
        ValueKind::Map if name.ends_with("Namespace") && depth > 0 => {
            refuse("it keeps a namespace within another value".into())
        }
        // what changes, or is not made of values, stays what it is
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
            // maps as they are written keep the order of their keys
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
        ValueKind::Invalid => refuse("it makes a value that cannot be".into()),
        _ => Ok(value.clone()),
    }
}
