//! `rollcall`, the command line of operators.

fn main() -> std::process::ExitCode {
    ops::main()
}
