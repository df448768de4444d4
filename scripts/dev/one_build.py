"""Many changes of the sources in one build, of which an environment variable chooses one: for `mutants` and `mutations`.

A place is written as `if crate::mutants::on(17) { changed } else { original }`. Marks in comments say which change a piece of text
is, so that what the compiler refuses can be taken out again.
"""
import collections, json, os, pathlib, re, shutil, subprocess, sys

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
AREA = ROOT / "target/one-build"
# One package's tests are built with the features that the whole workspace asks for, so that dependencies are compiled once.
# Cargo calls that unstable; one that does not know it compiles them once more for each package, and finds the same.
ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "CARGO_TERM_COLOR": "never", "CARGO_RESOLVER_FEATURE_UNIFICATION": "workspace",
               "CARGO_UNSTABLE_FEATURE_UNIFICATION": "true", "__CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS": "nightly"}

SWITCH = """
//! Which mutant of this build is active, and which of them were reached.
use std::{fs::OpenOptions, io::Write, sync::{LazyLock, atomic::{AtomicBool, Ordering}}};
static ACTIVE: LazyLock<u32> = LazyLock::new(|| std::env::var("DUEL_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
static RECORD: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("DUEL_MUTANTS_REACHED").ok());
static REACHED: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];
#[inline]
pub fn on(n: u32) -> bool {
    if RECORD.is_some() && !REACHED[n as usize].load(Ordering::Relaxed) && !REACHED[n as usize].swap(true, Ordering::Relaxed) { record(n); }
    *ACTIVE == n
}
#[cold]
fn record(n: u32) {
    if let Some(path) = RECORD.as_ref() && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        let _ = file.write_all(format!("{n}\\n").as_bytes());
    }
}
"""


def with_tree_sitter():
    """Runs this script where tree-sitter is installed, in a virtual environment of its own."""
    try:
        import tree_sitter, tree_sitter_rust  # noqa: F401
    except ImportError:
        venv = AREA / "venv"
        if not (venv / "bin/python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            subprocess.run([str(venv / "bin/pip"), "install", "-q", "tree_sitter==0.26.1", "tree_sitter_rust==0.24.2"], check=True)
        os.execv(str(venv / "bin/python"), [str(venv / "bin/python"), *sys.argv])


def parse(source):
    """The root of the syntax tree of a Rust file's bytes."""
    import tree_sitter, tree_sitter_rust
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language())).parse(source).root_node


def is_const(function, source):
    """Whether a `function_item` is a `const fn`, in which nothing can be chosen at run time."""
    modifiers = [c for c in function.children if c.type == "function_modifiers"]
    return any(b"const" in source[c.start_byte:c.end_byte].split() for c in modifiers)


def alternative(number, text):
    """A change's own text, marked."""
    return f"/*<{number}*/ {text} /*{number}>*/"


def place(numbers, text):
    """The text that holds these changes, marked."""
    joined = "-".join(map(str, numbers))
    return f"/*[{joined}*/{text}/*{joined}]*/"


class Copy:
    """A copy of the committed tree with its own build directories, which begin as copies of the workspace's."""

    def __init__(self, name):
        self.tree, self.build, self.check = AREA / name, AREA / "build", AREA / "check"

    def prepare(self):
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(self.tree)], input=archive, check=True)
        for directory, source in ((self.build, ROOT / "target/release"), (self.check, ROOT / "target/debug")):
            if not directory.exists():
                directory.mkdir(parents=True)
                if source.exists():
                    shutil.copytree(source, directory / source.name, symlinks=True, copy_function=shutil.copy2)
        for source in self.tree.glob("crates/**/*.rs"):
            source.touch()

    def declare(self, crates, count):
        """Writes the switch of `count` changes into these crates; answers with their root files."""
        roots = []
        for crate in crates:
            root = next(p for p in (self.tree / f"crates/{crate}/src/lib.rs", self.tree / f"crates/{crate}/src/main.rs") if p.exists())
            roots.append(str(root.relative_to(self.tree)))
            (root.parent / "mutants.rs").write_text(SWITCH.replace("COUNT", str(count + 1)).lstrip())
        return roots

    def write(self, file, text, roots):
        """Writes a source file; the switch is declared in a crate's root."""
        if file in roots:  # behind inner attributes and the crate's documentation
            head = re.match(r"(?:\s*//![^\n]*\n|\s*#!\[[^\]]*\]\n|\s*\n)*", text).end()
            text = text[:head] + "#[allow(warnings)] #[doc(hidden)] pub mod mutants;\n" + text[head:]
        (self.tree / file).write_text(text)

    def until_it_compiles(self, crates, numbers, write):
        """Calls `write(refused)` and checks these crates until nothing is refused; `refused` are numbers and how they are:
        `unviable`, by the change itself, or `apart`, because of how it is written."""
        refused = {}
        for attempt in range(60):
            write(refused)
            errors = self.errors(crates)
            if not errors:
                return refused
            before = len(refused)
            for file, spans in errors.items():
                self.take_out(file, spans, refused)
            print(f"  attempt {attempt + 1}: {sum(map(len, errors.values()))} errors, {len(refused)} of {numbers} changes taken out", flush=True)
            if len(refused) == before:
                sys.exit("errors without a change:\n" + "\n".join(f"{f}: {e}" for f, group in errors.items() for e in group[:3]))
        sys.exit("it does not compile after 60 attempts")

    def errors(self, crates):
        """The compiler's errors, by file: (first byte, last byte, message)."""
        errors = collections.defaultdict(list)
        arguments = [a for c in crates for a in ("-p", f"duel-{c}")]
        done = subprocess.run(["cargo", "check", "--keep-going", "--lib", "--bins", "--message-format=json", *arguments], cwd=self.tree,
                              capture_output=True, text=True, env={**ENVIRONMENT, "CARGO_TARGET_DIR": str(self.check)})
        for line in done.stdout.splitlines():
            message = json.loads(line).get("message") if line.startswith("{") else None
            if not message or message["level"] != "error" or not message["spans"]:
                continue
            for span in [s for s in message["spans"] if s["is_primary"]]:
                while (self.tree / "crates") not in (self.tree / span["file_name"]).parents and span["expansion"]:
                    span = span["expansion"]["span"]  # an error inside a macro stands where the macro is called
                errors[span["file_name"]].append((span["byte_start"], span["byte_end"], message["message"]))
        if done.returncode and not errors:
            sys.exit(f"the tree does not compile:\n{done.stderr[-3000:]}")
        return errors

    def take_out(self, file, spans, refused):
        """Refuses what each error points at: the alternative around it, else the innermost place, else every place on its lines."""
        if not (self.tree / file).is_file():
            return
        raw = (self.tree / file).read_bytes()
        end = lambda mark, at: raw.index(mark, at)
        inner = [(m.start(), end(b"/*" + m[1] + b">*/", m.start()), [int(m[1])], "unviable") for m in re.finditer(rb"/\*<(\d+)\*/", raw)]
        outer = [(m.start(), end(b"/*" + m[1] + b"]*/", m.start()), [int(n) for n in m[1].split(b"-")], "apart")
                 for m in re.finditer(rb"/\*\[([\d-]+)\*/", raw)]
        for start, stop, _ in spans:
            around = [p for p in inner + outer if p[0] <= start and stop <= p[1] + 8]
            chosen = [min(around, key=lambda p: p[1] - p[0])] if around else []
            if not chosen:
                first, last = raw.rfind(b"\n", 0, start), raw.find(b"\n", stop)
                chosen = [p for p in outer if p[0] < last and p[1] > first]
            for _, _, numbers, state in chosen:
                for number in numbers:
                    refused.setdefault(number, state)
