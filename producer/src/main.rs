//! Polls Bitrix24 and publishes changed contacts and won deals.

fn main() -> std::process::ExitCode {
    runtime::main::<producer::Producer>()
}
