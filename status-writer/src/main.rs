//! Writes what became of each record into its status field in Bitrix24.

fn main() -> std::process::ExitCode {
    runtime::main::<status_writer::StatusWriter>()
}
