//! Chat templates with bounded time and memory.
//!
//! minijinja's fuel covers instructions, output, and the strings and lists that they create, but not nested values: `[x, x]`,
//! sixty times over, has 2⁶⁰ items, and takes as long to write or compare. So every list and map is copied when it is created,
//! and fuel is charged for everything in it: no value is larger or deeper than the fuel allows, and none is lazy.

use crate::jinja_filters;
use crate::jinja_source::{ARGUMENT, GENERATION, JinjaSource, prepare};
use crate::metering::{charge, charge_bytes, charge_stored};
use crate::python_format::modulo;
use crate::python_methods::{attribute, call_method, is_method, item, slice};
use crate::python_value::{compare, contains, fail, python_str};
use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of a template's source. The longest in use have about 20,000.
const MAX_SOURCE: usize = 1 << 16;
/// Bytes of the stack on which the source is parsed; only what is used is allocated.
const STACK: usize = 1 << 28;
/// Fuel of a rendering, in addition to that for its input; a long conversation takes about ten thousand.
const FUEL: u64 = 500_000;

/// Names of filters, and of a variable, that no template can use.
const CHARGE: &str = "\0charge";
const CHARGE_STORED: &str = "\0charge-stored";
const CONCAT: &str = "\0~";
const MODULO: &str = "\0%";
const LESS: &str = "\0<";
const LESS_OR_EQUAL: &str = "\0<=";
const GREATER: &str = "\0>";
const GREATER_OR_EQUAL: &str = "\0>=";
const IN: &str = "\0in";
const ATTRIBUTE: &str = "\0attribute";
const ITEM: &str = "\0item";
const SLICE: &str = "\0[:]";
const PLAIN: &str = "\0plain";
const ITERABLE: &str = "\0iterable";
const UNESCAPED: &str = "\0unescaped";
const ARGUMENTS: &str = "\0arguments";
const KNOWN: &str = "\0known";
const RIGHT: &str = "\0right";

/// What a marked rendering writes where a `{% generation %}` block begins and ends: characters that no text may hold.
pub(crate) const BLOCK_MARKS: [&str; 2] = ["\u{fdd0}", "\u{fdd1}"];

/// Instructions that charge fuel for the values they create.
#[derive(Debug)]
struct Program {
    main: Instructions<'static>,
    blocks: BTreeMap<&'static str, Instructions<'static>>,
}

/// A template whose time and memory are bounded.
#[derive(Debug)]
pub(crate) struct MeteredTemplate {
    plain: Program,
    /// The same with [`BLOCK_MARKS`], where there are such blocks.
    marked: Option<Program>,
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
        let JinjaSource { text: source, macros } = prepare(source)?;
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        if multiplies_a_list(&source, syntax.clone())? {
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
        jinja_filters::add_to(environment);
        add_operators(environment);
        let program = |marks: bool| Program {
            main: with_metering(&main, &macros, marks),
            blocks: blocks.iter().map(|(name, code)| (*name, with_metering(code, &macros, marks))).collect(),
        };
        let marked = source.contains(GENERATION).then(|| program(true));
        Ok(Self { plain: program(false), marked })
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
        self.plain.render(environment, values, bytes)
    }

    /// The same with [`BLOCK_MARKS`]; `None` for a template without blocks.
    pub(crate) fn render_marked(
        &self,
        environment: &Environment<'static>,
        values: Value,
        bytes: usize,
    ) -> Result<Option<String>, Error> {
        self.marked.as_ref().map(|program| program.render(environment, values, bytes)).transpose()
    }
}

impl Program {
    fn render(&self, environment: &Environment<'static>, values: Value, bytes: usize) -> Result<String, Error> {
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

/// What is open at an instruction, innermost first: each with the one around it.
#[derive(Clone, Copy)]
enum Scope {
    Loop,
    With,
    Capture,
    Escape,
}

/// The scopes that a jump to `target` leaves are closed first: minijinja jumps out of them as they are.
struct Scopes {
    /// Each scope, with the index of the one around it.
    scopes: Vec<(Scope, Option<usize>)>,
    /// The innermost scope of each instruction.
    at: Vec<Option<usize>>,
}

impl Scopes {
    fn new(code: &Instructions<'static>) -> Self {
        let (mut scopes, mut at, mut inner) = (vec![], vec![], None);
        for instruction in (0..).map_while(|index| code.get(index)) {
            let opened = match instruction {
                Instruction::PushLoop(_) => Some(Scope::Loop),
                Instruction::PushWith => Some(Scope::With),
                Instruction::BeginCapture(_) => Some(Scope::Capture),
                Instruction::PushAutoEscape => Some(Scope::Escape),
                _ => None,
            };
            at.push(inner);
            match (opened, instruction) {
                (Some(scope), _) => {
                    scopes.push((scope, inner));
                    inner = Some(scopes.len() - 1);
                }
                (
                    None,
                    Instruction::PopFrame
                    | Instruction::PopLoopFrame
                    | Instruction::EndCapture
                    | Instruction::PopAutoEscape,
                ) => inner = inner.and_then(|index: usize| scopes[index].1),
                _ => {}
            }
        }
        Self { scopes, at }
    }

    /// The scopes in which a variable of this name is stored.
    fn storing(&self, code: &Instructions<'static>, name: &str) -> BTreeSet<usize> {
        let stores =
            |index: &usize| matches!(code.get(*index as u32), Some(Instruction::StoreLocal(own)) if *own == name);
        (0..self.at.len()).filter(stores).filter_map(|index| self.at[index]).collect()
    }

    fn closing(&self, from: usize, to: usize) -> Vec<Instruction<'static>> {
        let mut closing = vec![];
        let (mut inner, outer) = (self.at[from], self.at.get(to).copied().flatten());
        while inner != outer {
            let Some((scope, around)) = inner.map(|index| self.scopes[index]) else { break };
            match scope {
                Scope::Loop => closing.push(Instruction::PopLoopFrame),
                Scope::With => closing.push(Instruction::PopFrame),
                Scope::Capture => {
                    closing.extend([Instruction::PopFrame, Instruction::EndCapture, Instruction::DiscardTop]);
                }
                Scope::Escape => closing.push(Instruction::PopAutoEscape),
            }
            inner = around;
        }
        closing
    }
}

/// The same instructions, with fuel charged for each value that is created or compared; with [`BLOCK_MARKS`] where asked for.
fn with_metering(code: &Instructions<'static>, macros: &[String], marks: bool) -> Instructions<'static> {
    let scopes = Scopes::new(code);
    let generations = if marks { scopes.storing(code, GENERATION) } else { BTreeSet::new() };
    let is_generation = |index: usize| scopes.at[index].is_some_and(|scope| generations.contains(&scope));
    let pieces: Vec<_> = (0..)
        .map_while(|index| code.get(index).map(|instruction| (index as usize, instruction.clone())))
        .map(|(index, instruction)| match instruction {
            Instruction::Jump(to) => {
                let mut piece = scopes.closing(index, to as usize);
                piece.push(instruction);
                piece
            }
            // a macro sees the variables around it that it reads, even those that it also sets
            Instruction::GetClosure => {
                let mut piece: Vec<_> = names_read(code, index).into_iter().map(Instruction::Enclose).collect();
                piece.push(instruction);
                piece
            }
            Instruction::StoreLocal(GENERATION) if marks => vec![instruction, Instruction::EmitRaw(BLOCK_MARKS[0])],
            Instruction::PopFrame if is_generation(index) => vec![Instruction::EmitRaw(BLOCK_MARKS[1]), instruction],
            own => metered(own, macros),
        })
        .collect();
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

/// The variables that the macro reads whose closure is taken at an index.
fn names_read(code: &Instructions<'static>, index: usize) -> BTreeSet<&'static str> {
    let instruction = |index: usize| code.get(index as u32);
    let Some(Instruction::BuildMacro(_, start, _)) = instruction(index + 2) else { return BTreeSet::new() };
    let names = (*start as usize..index).filter_map(|index| match instruction(index) {
        Some(Instruction::Lookup(name) | Instruction::CallFunction(name, _)) if *name != "caller" => Some(*name),
        _ => None,
    });
    names.collect()
}

/// One instruction with its charges, and with Python's meaning.
fn metered(instruction: Instruction<'static>, macros: &[String]) -> Vec<Instruction<'static>> {
    let filter = |name| Instruction::ApplyFilter(name, Some(1), !0);
    let binary = |name| Instruction::ApplyFilter(name, Some(2), !0);
    // of the value below the top, then of the top
    let both = |name| [filter(name), Instruction::Swap, filter(name), Instruction::Swap];
    match instruction {
        // a macro with defaults tells an argument that is undefined from none
        Instruction::CallFunction(name, count) if macros.iter().any(|other| other == name) => vec![
            Instruction::ApplyFilter(ARGUMENTS, count, !0),
            Instruction::UnpackLists(1),
            Instruction::CallFunction(name, None),
            filter(CHARGE),
        ],
        Instruction::BuildList(_)
        | Instruction::BuildTuple(_)
        | Instruction::BuildMap(_)
        | Instruction::Mul
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => vec![instruction, filter(CHARGE)],
        Instruction::Slice => vec![Instruction::ApplyFilter(SLICE, Some(4), !0), filter(CHARGE)],
        Instruction::Add => [&both(PLAIN)[..], &[instruction, filter(CHARGE)]].concat(),
        Instruction::Rem => vec![binary(MODULO)],
        Instruction::StringConcat => [&both(CHARGE)[..], &[binary(CONCAT)]].concat(),
        Instruction::Eq | Instruction::Ne | Instruction::PerformTest(..) => vec![filter(CHARGE), instruction],
        Instruction::Lt => vec![filter(CHARGE), binary(LESS)],
        Instruction::Lte => vec![filter(CHARGE), binary(LESS_OR_EQUAL)],
        Instruction::Gt => vec![filter(CHARGE), binary(GREATER)],
        Instruction::Gte => vec![filter(CHARGE), binary(GREATER_OR_EQUAL)],
        Instruction::In => vec![filter(CHARGE), binary(IN)],
        Instruction::CompareAndPreserve(operator) => {
            let right = Instruction::Lookup(RIGHT);
            let compared = match format!("{operator:?}").as_str() {
                "Eq" => vec![Instruction::Eq],
                "Ne" => vec![Instruction::Ne],
                "Lt" => vec![binary(LESS)],
                "Lte" => vec![binary(LESS_OR_EQUAL)],
                "Gt" => vec![binary(GREATER)],
                "Gte" => vec![binary(GREATER_OR_EQUAL)],
                "In" => vec![binary(IN)],
                _ => vec![binary(IN), Instruction::Not],
            };
            let before = [filter(CHARGE), Instruction::StoreLocal(RIGHT), right.clone()];
            [&before[..], &compared, &[right, Instruction::Swap]].concat()
        }
        Instruction::GetAttr(name) if is_method(name) => {
            vec![Instruction::LoadConst(name.into()), binary(ATTRIBUTE)]
        }
        Instruction::GetItem => vec![binary(ITEM)],
        Instruction::Lookup("self" | "varargs" | "kwargs") => vec![instruction, filter(KNOWN)],
        Instruction::PushLoop(_) => vec![filter(ITERABLE), instruction],
        Instruction::PushAutoEscape => vec![filter(UNESCAPED), instruction],
        // on the stack, the value is below the namespace that stores it
        Instruction::SetAttr(_) => vec![Instruction::Swap, filter(CHARGE_STORED), Instruction::Swap, instruction],
        // constants may be of any length, too
        Instruction::LoadConst(ref value) if value.as_object().is_some_and(|o| !o.type_name().contains("Kwargs")) => {
            vec![instruction, filter(CHARGE)]
        }
        // what is set within a block that is captured stays there
        Instruction::BeginCapture(_) => vec![instruction, Instruction::PushWith],
        Instruction::EndCapture => vec![Instruction::PopFrame, instruction],
        own => vec![own],
    }
}

/// Adds the filters that the instructions call.
fn add_operators(environment: &mut Environment<'static>) {
    type Operator = fn(&State<'_, '_>, &Value, &Value) -> Result<Value, Error>;
    environment.set_unknown_method_callback(call_method);
    environment.set_formatter(|out, _, value| Ok(out.write_str(&python_str(value)?)?));
    environment.add_filter(CHARGE, charge);
    environment.add_filter(CHARGE_STORED, charge_stored);
    environment.add_filter(SLICE, |state: &State<'_, '_>, bounds: Rest<Value>| slice(state, &bounds));
    let operators: [(&str, Operator); 9] = [
        (CONCAT, |state, a, b| {
            let (a, b) = (python_str(a)?, python_str(b)?);
            charge_bytes(state, a.len() + b.len())?;
            Ok((a + &b).into())
        }),
        (MODULO, modulo),
        (LESS, |_, a, b| Ok((compare(a, b)? == Some(Ordering::Less)).into())),
        (LESS_OR_EQUAL, |_, a, b| Ok(compare(a, b)?.is_some_and(Ordering::is_le).into())),
        (GREATER, |_, a, b| Ok((compare(a, b)? == Some(Ordering::Greater)).into())),
        (GREATER_OR_EQUAL, |_, a, b| Ok(compare(a, b)?.is_some_and(Ordering::is_ge).into())),
        (IN, |_, item, container| contains(container, item).map(Value::from)),
        (ATTRIBUTE, |_, value, name| attribute(value, name.as_str().unwrap_or_default())),
        (ITEM, |_, value, key| item(value, key)),
    ];
    for (name, operator) in operators {
        environment.add_filter(name, move |state: &State<'_, '_>, a: &Value, b: &Value| operator(state, a, b));
    }
    let unless = |refused: fn(&Value) -> bool, problem: &'static str| {
        move |value: Value| if refused(&value) { Err(fail(problem)) } else { Ok(value) }
    };
    environment
        .add_filter(PLAIN, unless(Value::is_safe, "`+` of text that is marked safe or escaped is not supported"));
    let problem = "`self`, `varargs` and `kwargs` are not supported";
    environment.add_filter(KNOWN, unless(Value::is_undefined, problem));
    environment.add_filter(ITERABLE, unless(Value::is_none, "`for` over none"));
    environment.add_filter(UNESCAPED, unless(Value::is_true, "`autoescape` is not supported"));
    environment.add_filter(ARGUMENTS, |arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        let marked = |value: Value| if value.is_undefined() { Value::from_object(UndefinedArgument) } else { value };
        let all = arguments.iter().map(|argument| match Kwargs::try_from(argument.clone()) {
            Ok(named) if argument.is_kwargs() => {
                let fields = named.args().map(|name| Ok((name, marked(named.peek(name)?))));
                Ok(Value::from(fields.collect::<Result<Kwargs, Error>>()?))
            }
            _ => Ok(marked(argument.clone())),
        });
        all.collect::<Result<Vec<Value>, Error>>()
    });
    environment.add_filter(ARGUMENT, |value: Value| match value.downcast_object_ref::<UndefinedArgument>() {
        Some(_) => Value::UNDEFINED,
        None => value,
    });
}

/// An argument that is given and undefined.
#[derive(Debug)]
struct UndefinedArgument;

impl Object for UndefinedArgument {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}
