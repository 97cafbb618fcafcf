//! Turns changed Bitrix24 records into otmechalka clients and tickets.

fn main() -> std::process::ExitCode {
    runtime::main::<mapper::Mapper>()
}
