//! What goes into the pack?

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::{Pack, fatbin};
use crate::command::{command, execute, workspace};
use crate::{build, cache, install, models};

/// What is run there.
pub(crate) const ENTRY: &str = "check";
const CHECK: &str = include_str!("check.sh");
const ARCHIVE: &str = "pack.tar.xz";
const SUMS: &str = "SHA256SUMS";
/// No more than this, in bytes.
const LIMIT: u64 = 64 << 20;
/// Where the pack is more than that, its parts are no larger than this.
const PART: u64 = 48 << 20;
/// The oldest architecture that ONNX Runtime's wheel is compiled for.
const OLDEST: u32 = 75;

/// Builds, gathers, compresses, and prints what is inside.
pub(crate) fn run(options: &Pack) -> Result<()> {
    let out = &options.out;
    if out.exists() && !out.join(SUMS).exists() {
        bail!(
            "{} is there and is no pack: name another folder",
            out.display()
        );
    }
    let programs = match &options.programs {
        Some(folder) => std::path::absolute(folder)?,
        None => build(&cache::dir()?.join("gpu/programs"))?,
    };
    models::run()?;
    let scratch = tempfile::tempdir_in(cache::dir()?)?;
    let kept = gather(&programs, options, scratch.path())?;
    let contents = contents(scratch.path())?;

    // Made beside it: a folder of that name is a whole pack, wherever one that was begun ended.
    let out = &std::path::absolute(out)?;
    let beside = out.parent().context("the folder has no parent")?;
    std::fs::create_dir_all(beside)?;
    let fresh = tempfile::Builder::new()
        .prefix("packing-")
        .tempdir_in(beside)?;
    let (sums, size) = fill(fresh.path(), scratch.path(), &contents, options.whole)?;
    replace(fresh, out)?;

    println!(
        "Inside {ARCHIVE}, for GPUs of compute capability {}.{}:\n{contents}",
        options.architecture / 10,
        options.architecture % 10
    );
    println!(
        "libonnxruntime_providers_cuda.so has machine code of {} source files, {}; zeros are that of {} others and of other \
         architectures, {}.",
        kept.kept,
        mib(kept.bytes as u64),
        kept.dropped,
        mib((kept.of - kept.bytes) as u64)
    );
    print!("\n{sums}");
    let (folder, size_mib) = (out.display(), mib(size));
    if options.whole {
        println!("{folder} is {size_mib}, in parts of {} at most", mib(PART));
        return Ok(());
    }
    println!("{folder} is {size_mib}, of {} at most", mib(LIMIT));
    if size >= LIMIT {
        bail!("the pack is too large");
    }
    Ok(())
}

/// Puts the pack of what is in `from` into `folder`; its checksums, and its size in bytes.
fn fill(folder: &Path, from: &Path, contents: &str, split: bool) -> Result<(String, u64)> {
    archive(from, &folder.join(ARCHIVE))?;
    std::fs::write(folder.join(ENTRY), CHECK)?;
    execute(command("chmod").arg("755").arg(folder.join(ENTRY)))?;
    std::fs::write(folder.join("CONTENTS"), contents)?;
    let mut sums = String::new();
    let mut size = 0;
    let mut names = parts(folder, split)?;
    names.extend([ENTRY, "CONTENTS"].map(str::to_owned));
    for name in names {
        let path = folder.join(&name);
        size += path.metadata()?.len();
        writeln!(sums, "{}  {name}", cache::sha256(&path)?)?;
    }
    size += sums.len() as u64;
    std::fs::write(folder.join(SUMS), &sums)?;
    Ok((sums, size))
}

/// Has `fresh` take the place of `out`.
fn replace(fresh: tempfile::TempDir, out: &Path) -> Result<()> {
    // Others may read a pack, but nobody reads a folder for temporary files.
    execute(command("chmod").arg("755").arg(fresh.path()))?;
    if out.exists() {
        std::fs::remove_dir_all(out)?;
    }
    std::fs::rename(fresh.keep(), out).with_context(|| format!("cannot make {}", out.display()))
}

/// The names of the archive's files: where it need not be below the limit, of parts that each are.
fn parts(folder: &Path, split: bool) -> Result<Vec<String>> {
    if !split {
        return Ok(vec![ARCHIVE.to_owned()]);
    }
    let archive = folder.join(ARCHIVE);
    execute(
        command("split")
            .arg(format!("--bytes={PART}"))
            .arg(&archive)
            .arg(folder.join(format!("{ARCHIVE}."))),
    )?;
    std::fs::remove_file(archive)?;
    let mut names: Vec<String> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.retain(|name| name.starts_with(ARCHIVE));
    names.sort();
    Ok(names)
}

/// Builds the programs as they are released, and puts them into one folder.
fn build(folder: &Path) -> Result<PathBuf> {
    install::wasm_target()?;
    build::released(&["load-guest"])?;
    let target = build::target()?;
    std::fs::create_dir_all(folder)?;
    for file in [
        "release/wisp-runtime",
        "release/wisp-load",
        "wasm32-wasip2/release/load_guest.wasm",
    ] {
        let file = target.join(file);
        std::fs::copy(
            &file,
            folder.join(file.file_name().context("it has a name")?),
        )?;
    }
    Ok(folder.to_owned())
}

/// Puts everything into `folder`, which is a cache folder of wisp's, too.
fn gather(programs: &Path, options: &Pack, folder: &Path) -> Result<fatbin::Kept> {
    let copy = |from: &Path, to: &str| -> Result<PathBuf> {
        let to = folder.join(to);
        std::fs::copy(from, &to).with_context(|| format!("{} is missing", from.display()))?;
        Ok(to)
    };
    for program in ["wisp-runtime", "wisp-load"] {
        let program = copy(&programs.join(program), program)?;
        execute(command("strip").arg(program))?;
    }
    copy(&programs.join("load_guest.wasm"), "load_guest.wasm")?;
    let model = cache::dir()?.join("models/efficientnet-lite0.onnx");
    copy(&model, "model.onnx")?;
    copy(&workspace().join("LICENSE"), "LICENSE")?;

    let onnxruntime = install::onnxruntime_gpu()?;
    let into = format!("onnxruntime/{}", install::ONNXRUNTIME_VERSION);
    std::fs::create_dir_all(folder.join(&into))?;
    let [shared, cuda] = install::PROVIDERS;
    for name in [install::LIBRARY, shared, "LICENSE", "ThirdPartyNotices.txt"] {
        copy(&onnxruntime.join(name), &format!("{into}/{name}"))?;
    }
    let mut library = std::fs::read(onnxruntime.join(cuda))?;
    let oldest = (!options.whole).then_some(OLDEST);
    let kept = fatbin::prune(&mut library, options.architecture, oldest)?;
    std::fs::write(folder.join(into).join(cuda), library)?;
    Ok(kept)
}

/// A line for each file: its size in bytes, its SHA-256 and its name.
fn contents(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut text = String::new();
    let mut all = 0;
    for file in files {
        let size = file.metadata()?.len();
        all += size;
        let name = file.strip_prefix(folder)?.display();
        writeln!(text, "{size:>11}  {}  {name}", cache::sha256(&file)?)?;
    }
    writeln!(text, "{all:>11}  together, unpacked")?;
    Ok(text)
}

/// The same bytes for the same files.
fn archive(folder: &Path, to: &Path) -> Result<()> {
    let mut tar = command("tar")
        .args(["--create", "--sort=name", "--format=ustar", "--mtime=@0"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .context("tar cannot be started")?;
    let output = tar.stdout.take().context("its output is piped")?;
    let packed = execute(
        command("xz")
            // The programs share much code, further apart than a smaller dictionary reaches.
            .args([
                "--stdout",
                "--threads=1",
                "--x86",
                "--lzma2=preset=6,dict=64MiB",
            ])
            .stdin(output)
            .stdout(std::fs::File::create(to)?),
    );
    let status = tar.wait()?;
    packed?;
    if !status.success() {
        bail!("tar failed: {status}");
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How it ended, and what it said.
    fn entry(arguments: &[&str]) -> (Option<i32>, String) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ENTRY), CHECK).unwrap();
        let mut entry = command("sh");
        entry.arg(folder.path().join(ENTRY)).args(arguments);
        let output = entry.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// Would fail if a check that was asked for were taken for one that found nothing wrong.
    #[test]
    fn without_a_gpu_the_entry_says_so() {
        if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists() {
            eprintln!("skipped: there is a GPU here");
            return;
        }
        let said = "There is no NVIDIA GPU here (/dev/nvidiactl): nothing was checked.\n";
        assert_eq!(entry(&["--seconds", "1"]), (Some(0), said.to_owned()));
        for asked in [
            &["--device", "gpu"][..],
            &["--device=gpu"],
            &["--report", "gpu.json"],
            &["--report=gpu.json", "--rounds", "1"],
        ] {
            assert_eq!(entry(asked), (Some(3), said.to_owned()), "{asked:?}");
        }
        // On the CPU it goes on, and here there is nothing to go on with.
        let (code, text) = entry(&["--device", "cpu", "--report", "cpu.json"]);
        assert!(
            ![Some(0), Some(3)].contains(&code) && text.contains("SHA256SUMS"),
            "{code:?}: {text}"
        );
    }

    #[test]
    fn no_folder_is_made_anew_but_a_pack() {
        let folder = tempfile::tempdir().unwrap();
        let options = Pack {
            out: folder.path().to_owned(),
            architecture: 90,
            whole: false,
            programs: Some(folder.path().to_owned()),
        };
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("is no pack"), "{error}");
        assert!(folder.path().exists());
    }

    /// Would fail if a pack that was begun took the place of a whole one, or nobody but its owner could read it.
    #[test]
    fn a_pack_takes_its_place_once_it_is_whole() {
        use std::os::unix::fs::PermissionsExt as _;

        let beside = tempfile::tempdir().unwrap();
        let (from, out) = (tempfile::tempdir().unwrap(), beside.path().join("gpu"));
        std::fs::write(from.path().join("a"), "a").unwrap();
        for split in [true, false] {
            let fresh = tempfile::tempdir_in(beside.path()).unwrap();
            let (sums, size) = fill(fresh.path(), from.path(), "a", split).unwrap();
            replace(fresh, &out).unwrap();
            assert_eq!(std::fs::read_to_string(out.join(SUMS)).unwrap(), sums);
            let files = std::fs::read_dir(&out).unwrap();
            let all: u64 = files
                .map(|file| file.unwrap().metadata().unwrap().len())
                .sum();
            assert_eq!(size, all);
            assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert!(out.join(ARCHIVE).exists());
        assert_eq!(std::fs::read_dir(beside.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_archive_is_the_same_whenever_it_is_made() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &two] {
            std::fs::create_dir(folder.path().join("in")).unwrap();
            std::fs::write(folder.path().join("in/a"), "a").unwrap();
            std::fs::write(folder.path().join("in/b"), "b").unwrap();
            archive(&folder.path().join("in"), &folder.path().join(ARCHIVE)).unwrap();
        }
        let bytes =
            |folder: &tempfile::TempDir| std::fs::read(folder.path().join(ARCHIVE)).unwrap();
        assert_eq!(bytes(&one), bytes(&two));
        let sum = contents(&one.path().join("in")).unwrap();
        assert!(
            sum.ends_with("  b\n          2  together, unpacked\n"),
            "{sum}"
        );
    }
}
