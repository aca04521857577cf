//! Of what other hosts found about a model, what counts here?

use std::num::NonZeroUsize;

use wisp_contract::config::{Trial, Tried};

/// What a host like this one, which has so many cores, found.
pub(crate) fn known(trials: &[Tried], cores: NonZeroUsize) -> Option<Trial> {
    let processor = processor();
    let of_our_kind = |tried: &&Tried| tried.processor == processor && tried.cores == cores;
    Some(trials.iter().find(of_our_kind)?.trial.clone())
}

/// What this host found, which has so many cores.
pub(crate) fn here(trial: Trial, cores: NonZeroUsize) -> Tried {
    Tried {
        processor: processor().to_owned(),
        cores,
        trial,
    }
}

/// A coarse class of processors: the greatest set of instructions by the psABI's name
/// (<https://gitlab.com/x86-psABIs/x86-64-ABI>), where vectors are as wide. Those of one class still differ, as by VNNI.
#[cfg(target_arch = "x86_64")]
fn processor() -> &'static str {
    macro_rules! has {
        ($($feature:tt),+) => { $(std::is_x86_feature_detected!($feature))&&+ };
    }
    if !has!("avx2", "bmi2", "fma") {
        "x86-64-v2"
    } else if has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl") {
        "x86-64-v4"
    } else {
        "x86-64-v3"
    }
}

/// The architecture alone: vectors of 64-bit Arm's NEON are as wide everywhere.
#[cfg(not(target_arch = "x86_64"))]
fn processor() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a host believed one with another processor or other cores, or not its like.
    #[test]
    fn only_what_a_host_of_the_same_kind_found_counts() {
        let [one, two] = [1, 2].map(|cores| NonZeroUsize::new(cores).unwrap());
        let elsewhere = Tried {
            processor: "another".to_owned(),
            ..here(Trial::Joined, two)
        };
        let alone = Trial::Alone("it doesn't pay".to_owned());
        let mut trials = vec![elsewhere, here(Trial::Joined, one)];
        assert_eq!(known(&trials, two), None);
        trials.push(here(alone.clone(), two));
        assert_eq!(known(&trials, two), Some(alone));
        assert_eq!(known(&trials, one), Some(Trial::Joined));
    }
}
