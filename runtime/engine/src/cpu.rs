//! What machine code may ask of a processor: levels that many processors have in common, so that code which was made on
//! one machine runs on the others of a cluster.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use target_lexicon::{Aarch64Architecture, Architecture, HOST, Triple};
use wasmtime::Config;

/// A level of x86-64, as the [psABI](https://gitlab.com/x86-psABIs/x86-64-ABI) defines them, 64-bit Arm, or exactly this
/// processor.
///
/// Code of a level runs on all processors of that level or a higher one. There is none for more than
/// [`Cpu::X86_64V3`]: Cranelift makes next to nothing of AVX-512, and few machines have the same parts of it. Nor is there
/// one for more than the first 64-bit Arm: of what came later Cranelift uses atomics, which components have no use for,
/// pointer authentication, and dot products of bytes, for relaxed SIMD alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cpu {
    /// SSE4.2 and POPCNT: since 2009, and Atoms of today.
    X86_64V2,
    /// AVX2, BMI2 and FMA: since 2013.
    X86_64V3,
    /// Armv8.0-A, which has NEON: every 64-bit Arm that runs Linux. Kubernetes' name for it.
    Arm64,
    /// What this processor has, where it is of none of these.
    Native,
}

/// Why a text is no [`Cpu`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no level of processors: expected `x86-64-v2`, `x86-64-v3`, `arm64` or `native`")]
pub struct CpuError(String);

/// What a level has beyond the one below: the flags, as Cranelift calls them, and whether this machine has all of it.
macro_rules! level {
    ($flags:ident, $is_here:ident: $($flag:literal $feature:tt),+ $(,)?) => {
        const $flags: &[&str] = &[$($flag),+];

        #[cfg(target_arch = "x86_64")]
        fn $is_here() -> bool {
            [$(std::is_x86_feature_detected!($feature)),+].into_iter().all(|has| has)
        }
    };
}

level!(
    V2, is_v2: "has_cmpxchg16b" "cmpxchg16b", "has_popcnt" "popcnt", "has_sse3" "sse3", "has_sse41" "sse4.1",
    "has_sse42" "sse4.2", "has_ssse3" "ssse3",
);
level!(
    V3, is_v3: "has_avx" "avx", "has_avx2" "avx2", "has_bmi1" "bmi1", "has_bmi2" "bmi2", "has_fma" "fma",
    "has_lzcnt" "lzcnt",
);

/// What this machine counts as at most.
static LIMIT: OnceLock<Cpu> = OnceLock::new();

impl Cpu {
    /// All there are.
    const ALL: [Self; 4] = [Self::X86_64V2, Self::X86_64V3, Self::Arm64, Self::Native];

    /// The highest level that this machine has, or is to have.
    #[must_use]
    pub fn here() -> Self {
        let detected = Self::detected();
        match LIMIT.get() {
            Some(limit) if detected.below().contains(limit) => *limit,
            _ => detected,
        }
    }

    fn detected() -> Self {
        #[cfg(target_arch = "x86_64")]
        match (is_v2(), is_v3()) {
            (true, true) => return Self::X86_64V3,
            (true, false) => return Self::X86_64V2,
            (false, _) => {}
        }
        if cfg!(target_arch = "aarch64") {
            return Self::Arm64;
        }
        Self::Native
    }

    /// Has this machine count as one of at most this level from now on, in the whole process: to be called once, before
    /// there is any engine. A level that isn't below what it has changes nothing.
    pub fn limit(self) {
        let _ = LIMIT.set(self);
    }

    /// The levels below this one, whose code runs on it, too.
    #[must_use]
    pub fn below(self) -> &'static [Self] {
        match self {
            Self::X86_64V3 => &[Self::X86_64V2],
            Self::X86_64V2 | Self::Arm64 | Self::Native => &[],
        }
    }

    /// Has `config` make code for this level, on whatever machine.
    ///
    /// # Errors
    /// When the compiler was built without that family.
    pub(crate) fn apply(self, config: &mut Config) -> Result<(), wasmtime::Error> {
        let (family, flags): (_, [&[&str]; 2]) = match self {
            Self::Native => return Ok(()),
            Self::X86_64V2 => (Architecture::X86_64, [V2, &[]]),
            Self::X86_64V3 => (Architecture::X86_64, [V2, V3]),
            Self::Arm64 => (
                Architecture::Aarch64(Aarch64Architecture::Aarch64),
                [&[], &[]],
            ),
        };
        let target = Triple {
            architecture: family,
            ..HOST
        };
        // Naming a target keeps wasmtime from adding what this very processor has.
        config.target(&target.to_string())?;
        for flag in flags.into_iter().flatten() {
            // SAFETY: what wasmtime asks of a flag is that code made with it is run only where the processor has what
            // it stands for, which wasmtime checks itself for all of these when it loads code.
            #[expect(unsafe_code, reason = "naming what a processor has")]
            unsafe {
                config.cranelift_flag_enable(flag);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64V2 => "x86-64-v2",
            Self::X86_64V3 => "x86-64-v3",
            Self::Arm64 => "arm64",
            Self::Native => "native",
        })
    }
}

impl FromStr for Cpu {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|cpu| cpu.to_string() == text)
            .ok_or_else(|| CpuError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_as_it_is_written() {
        for cpu in Cpu::ALL {
            assert_eq!(cpu.to_string().parse(), Ok(cpu));
        }
        let error = "x86-64-v4".parse::<Cpu>().unwrap_err().to_string();
        assert!(
            error.contains("`x86-64-v4`") && error.contains("`arm64`"),
            "{error}"
        );
    }
}
