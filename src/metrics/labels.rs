//! What tells the series of a family apart, where that is known when the program is written.

use std::fmt;
use std::marker::PhantomData;

/// The values of one label, all of them.
pub trait Label: Copy + 'static {
    /// What the label is called.
    const KEY: &'static str;
    const ALL: &'static [Self];

    fn name(self) -> &'static str;

    /// Its place in [`Self::ALL`].
    fn place(self) -> usize;
}

/// Declares a label, its values and what they are called on a page.
macro_rules! labels {
    ($(#[$doc:meta])* $vis:vis enum $name:ident as $key:literal {
        $($(#[$value_doc:meta])* $value:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$value_doc])* $value),+
        }

        impl $crate::metrics::Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text),+
                }
            }

            fn place(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use labels;

/// One number, or histogram, for each value of a label. All are there from the start, so that counting finds them
/// without a lock.
pub struct ByLabel<L, T> {
    all: Box<[T]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, T> ByLabel<L, T> {
    pub fn of(&self, value: L) -> &T {
        &self.all[value.place()]
    }

    pub fn iter(&self) -> impl Iterator<Item = (L, &T)> {
        L::ALL.iter().copied().zip(&self.all)
    }
}

impl<L: Label, T: Default> Default for ByLabel<L, T> {
    fn default() -> Self {
        Self {
            all: L::ALL.iter().map(|_| T::default()).collect(),
            label: PhantomData,
        }
    }
}

impl<L: Label + fmt::Debug, T: fmt::Debug> fmt::Debug for ByLabel<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
