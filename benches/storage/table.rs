//! The table at the end: what was measured, and whether it meets the goals.

use ferrolog::cli::output::grouped;

/// What a case should reach.
#[derive(Clone, Copy)]
pub enum Goal {
    None,
    /// The ratio is at most this.
    RatioMax(f64),
    /// The ratio is at least this.
    RatioMin(f64),
    /// The engine's own figure is over this.
    Over(f64),
}

/// One case: the same figure of the engine and of plain system calls.
pub struct Row {
    pub case: String,
    pub ours: f64,
    pub raw: Option<f64>,
    pub unit: &'static str,
    pub goal: Goal,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.raw.map(|raw| self.ours / raw)
    }

    fn goal(&self) -> (String, &'static str) {
        let ratio = self.ratio().unwrap_or(f64::NAN);
        let (goal, met) = match self.goal {
            Goal::None => return (String::new(), ""),
            Goal::RatioMax(max) => (format!("<= {max:.2}"), ratio <= max),
            Goal::RatioMin(min) => (format!(">= {min:.2}"), ratio >= min),
            Goal::Over(min) => (format!("> {}", number(min)), self.ours > min),
        };
        (goal, if met { "met" } else { "MISSED" })
    }

    fn cells(&self) -> [String; 6] {
        let (goal, verdict) = self.goal();
        let figure = |value: f64| format!("{} {}", number(value), self.unit);
        [
            self.case.clone(),
            figure(self.ours),
            self.raw.map_or_else(String::new, figure),
            self.ratio()
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            goal,
            verdict.to_owned(),
        ]
    }
}

/// Prints the rows in columns as wide as their widest cell.
pub fn print(rows: &[Row]) {
    let head = ["case", "ferrolog", "raw", "ratio", "goal", ""].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    println!();
    for line in &lines {
        let mut out = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            if column == 0 || column == 5 {
                out += &format!("{cell:<width$}  ");
            } else {
                out += &format!("{cell:>width$}  ");
            }
        }
        println!("{}", out.trim_end());
    }
}

/// Three digits that matter, thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is no less than 100, and far below 2^64"
    )]
    grouped(value.round() as u64)
}
