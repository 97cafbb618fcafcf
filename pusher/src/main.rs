//! Applies clients and tickets to otmechalka, each once and in order.

fn main() -> std::process::ExitCode {
    runtime::main::<pusher::Pusher>()
}
