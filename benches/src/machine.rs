//! What the figures were measured on.

use std::fs;

/// Returns one line about this machine.
pub fn line() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .map_or_else(String::new, |kib| format!(", {:.0} GiB", kib / 1024.0 / 1024.0));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Machine: {cores} cores ({model}){memory}, {} {}", std::env::consts::OS, kernel.trim())
}

/// Returns the highest resident memory in KiB of this process's child that runs a program.
pub fn peak_memory_kib(program: &str) -> Option<u64> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = |name: &str| {
            status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches(':').trim()))
        };
        // Linux cuts names at 15 bytes, which all of ours fit into.
        let is_it = line("PPid")? == own && line("Name")? == program;
        is_it.then(|| line("VmHWM")?.split_whitespace().next()?.parse().ok()).flatten()
    })
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_child_is_found_by_its_name() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // The name changes only when the child has become the program.
        let found = (0..1_000).find_map(|_| {
            std::thread::yield_now();
            peak_memory_kib("sleep")
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some_and(|kib| kib > 0));
    }
}
