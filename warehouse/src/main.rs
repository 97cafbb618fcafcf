//! Keeps tables of contacts, deals and outcomes in PostgreSQL.

fn main() -> std::process::ExitCode {
    runtime::main::<warehouse::Warehouse>()
}
