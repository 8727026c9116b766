//! The table of limits says what the constants are: a number that was changed in the code alone is found.
//!
//! A row names its constants behind the file that holds them, `NAME` or `NAME.field`. Each must be there, and its
//! value, as people write it, must stand in the row.

use std::collections::HashMap;
use std::time::Duration;

use ferrolog::cli::output::grouped;
use syn::{BinOp, Expr, ExprCall, Item, Lit, Member, Stmt};

use crate::source::Finding;

/// The page, and the part of it that holds the table.
pub const PAGE: &str = "docs/architecture.md";
const TITLE: &str = "## Limits";

/// Rows whose values follow from several constants or from a setting: by the first words of each.
const UNNAMED: &[&str] = &[
    "a majority's silence before",
    "state with every table full",
    "remembered of a session",
    "descriptors for connections",
];

/// The value of a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Number(u64),
    Time(Duration),
}

/// The constants of one file that can be worked out from its text.
struct Constants<'a> {
    exprs: HashMap<String, &'a Expr>,
}

impl<'a> Constants<'a> {
    fn new(file: &'a syn::File) -> Self {
        let consts = file.items.iter().filter_map(|item| match item {
            Item::Const(item) => Some((item.ident.to_string(), &*item.expr)),
            _ => None,
        });
        Self {
            exprs: consts.collect(),
        }
    }

    /// The value of `NAME` or of `NAME.field`.
    fn value(&self, name: &str) -> Option<Value> {
        let (name, field) = match name.split_once('.') {
            Some((name, field)) => (name, Some(field)),
            None => (name, None),
        };
        let expr = *self.exprs.get(name)?;
        match (field, expr) {
            (None, expr) => self.eval(expr),
            (Some(field), Expr::Struct(made)) => {
                let is = |member: &Member| matches!(member, Member::Named(name) if name == field);
                let field = made.fields.iter().find(|given| is(&given.member))?;
                self.eval(&field.expr)
            }
            (Some(_), _) => None,
        }
    }

    fn eval(&self, expr: &Expr) -> Option<Value> {
        match expr {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Int(number) => number.base10_parse().ok().map(Value::Number),
                _ => None,
            },
            Expr::Paren(inner) => self.eval(&inner.expr),
            Expr::Cast(cast) => self.eval(&cast.expr),
            Expr::Path(path) => {
                let names: Vec<_> = path
                    .path
                    .segments
                    .iter()
                    .map(|s| s.ident.to_string())
                    .collect();
                match &*names.iter().map(String::as_str).collect::<Vec<_>>() {
                    ["u32", "MAX"] => Some(Value::Number(u64::from(u32::MAX))),
                    ["u64", "MAX"] => Some(Value::Number(u64::MAX)),
                    [name] => self.value(name),
                    _ => None,
                }
            }
            Expr::Binary(binary) => {
                let (Value::Number(left), Value::Number(right)) =
                    (self.eval(&binary.left)?, self.eval(&binary.right)?)
                else {
                    return None;
                };
                let value = match binary.op {
                    BinOp::Add(_) => left.checked_add(right),
                    BinOp::Sub(_) => left.checked_sub(right),
                    BinOp::Mul(_) => left.checked_mul(right),
                    BinOp::Div(_) => left.checked_div(right),
                    BinOp::Shl(_) => left.checked_shl(u32::try_from(right).ok()?),
                    BinOp::Shr(_) => left.checked_shr(u32::try_from(right).ok()?),
                    _ => None,
                };
                value.map(Value::Number)
            }
            // What tests have instead is not the product's.
            Expr::If(choice) => {
                let (_, other) = choice.else_branch.as_ref()?;
                match &**other {
                    Expr::Block(block) => match &*block.block.stmts {
                        [Stmt::Expr(expr, None)] => self.eval(expr),
                        _ => None,
                    },
                    _ => None,
                }
            }
            Expr::Call(call) => self.time(call),
            _ => None,
        }
    }

    /// `Duration::from_secs(..)` and its like.
    fn time(&self, call: &ExprCall) -> Option<Value> {
        let Expr::Path(function) = &*call.func else {
            return None;
        };
        let unit = function.path.segments.last()?.ident.to_string();
        let Value::Number(number) = self.eval(call.args.first()?)? else {
            return None;
        };
        let time = match &*unit {
            "from_millis" => Duration::from_millis(number),
            "from_secs" => Duration::from_secs(number),
            "from_hours" => Duration::from_secs(number * 3600),
            _ => return None,
        };
        Some(Value::Time(time))
    }
}

/// The ways in which people write a value.
fn spellings(value: Value) -> Vec<String> {
    let mut found = Vec::new();
    match value {
        Value::Number(number) => {
            found.push(grouped(number));
            let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
            let whole = units
                .iter()
                .filter(|(bits, _)| number >= 1 << bits && number % (1 << bits) == 0);
            found.extend(whole.map(|(bits, unit)| format!("{} {unit}", grouped(number >> bits))));
            if number.is_power_of_two() {
                found.push(format!("2^{}", number.ilog2()));
            }
            if let Some(next) = number.checked_add(1).filter(|next| next.is_power_of_two()) {
                found.push(format!("2^{} - 1", next.ilog2()));
            }
            let parts = [(2, "half"), (4, "quarter"), (8, "eighth")];
            let part = parts.iter().find(|(part, _)| *part == number);
            found.extend(part.map(|(_, word)| (*word).to_owned()));
        }
        Value::Time(time) => {
            let ms = u64::try_from(time.as_millis()).expect("no limit is so long");
            let units = [(1, "ms"), (1000, "s"), (60_000, "min"), (3_600_000, "h")];
            let whole = units.iter().filter(|(unit, _)| ms % unit == 0);
            found.extend(whole.map(|(unit, word)| format!("{} {word}", grouped(ms / unit))));
            let words = [(3_600_000, "an hour"), (86_400_000, "a day")];
            let word = words.iter().find(|(span, _)| *span == ms);
            found.extend(word.map(|(_, word)| (*word).to_owned()));
        }
    }
    found
}

/// Whether `text` holds `spelling`, and not as a part of another number or word.
fn holds(text: &str, spelling: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == ',' || c == '.' || c == '^';
    text.match_indices(spelling).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + spelling.len()..].chars();
        let (next, second) = (after.next(), after.next());
        // A comma or a stop ends a number unless a digit follows.
        let ends = match next {
            Some(',' | '.') => second.is_none_or(|c| !c.is_ascii_digit()),
            Some(c) => !c.is_alphanumeric(),
            None => true,
        };
        ends && before.is_none_or(|c| !is_part(c))
    })
}

/// Rows of the table of limits that do not say what their constants are. `read` gives the text of a file of Rust.
pub fn limits(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let lines = page
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line));
    let table = lines
        .skip_while(|(_, line)| *line != TITLE)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| what |"));
    let mut findings = Vec::new();
    for (line, text) in table {
        let finding = |what: String| Finding::new(PAGE, line, what);
        let cells: Vec<_> = text.trim_matches('|').split('|').map(str::trim).collect();
        let &[what, value_text, home] = &*cells else {
            findings.push(finding("a row has three cells".to_owned()));
            continue;
        };
        let quoted: Vec<_> = home.split('`').skip(1).step_by(2).collect();
        let (files, names): (Vec<_>, Vec<_>) =
            quoted.into_iter().partition(|word| word.ends_with(".rs"));
        if names.is_empty() && !UNNAMED.iter().any(|row| what.starts_with(row)) {
            findings.push(finding(format!(
                "{what}: name the constant behind the file, or list the row in tests/tidy/limits.rs"
            )));
        }
        let texts = files.iter().filter_map(|file| read(file));
        let parsed: Vec<_> = texts
            .map(|text| syn::parse_file(&text).expect("it compiles"))
            .collect();
        for name in names {
            let values: Vec<_> = parsed
                .iter()
                .filter_map(|file| Constants::new(file).value(name))
                .collect();
            // A size may stand in the row's first words: calls of 8 KiB each.
            let said = |value: &Value| {
                let mut spelled = spellings(*value).into_iter();
                spelled.any(|spelling| [what, value_text].iter().any(|cell| holds(cell, &spelling)))
            };
            if values.is_empty() {
                findings.push(finding(format!(
                    "{name} is no constant of {}",
                    files.join(", ")
                )));
            } else if !values.iter().any(said) {
                let spelled: Vec<_> = values.iter().flat_map(|value| spellings(*value)).collect();
                findings.push(finding(format!(
                    "{value_text:?} does not say that {name} is {}",
                    spelled.join(" or ")
                )));
            }
        }
    }
    findings
}

// ---- over samples: the rule fires ------------------------------------------------------------------

#[test]
fn a_limit_that_is_told_wrong_is_found() {
    let page = "\
## Limits

| what | value | where |
|---|---|---|
| right | 64 MiB, 5 s | `a.rs`: `BYTES`, `WAIT` |
| wrong | 64 KiB | `a.rs`: `BYTES` |
| a part of another number | 164 MiB, 1.64 MiB | `a.rs`: `BYTES` |
| of parts | 2^32 - 1; 4,096; an eighth | `a.rs`: `OFFSETS`, `MAPS`, `OF.part` |
| gone | 7 | `a.rs`: `SEVEN` |
| unnamed | 7 | `a.rs` |
## Seams
| not a limit | 7 | `a.rs`: `BYTES` |
";
    let code = "\
const BYTES: usize = HALF * 2;
const HALF: usize = 32 << 20;
const WAIT: Duration = Duration::from_secs(5);
const OFFSETS: u64 = u32::MAX as u64;
const MAPS: usize = if cfg!(test) { 8 } else { 4096 };
const OF: Parts = Parts { part: 8 };
";
    let found = limits(page, |path| (path == "a.rs").then(|| code.to_owned()));
    let lines: Vec<_> = found.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [6, 7, 9, 10], "{found:?}");
}
