//! The `cairn` program.

fn main() -> std::process::ExitCode {
    #[cfg(target_env = "gnu")]
    share_one_arena();
    cairn::cli::main()
}

/// Tells glibc to serve all threads from one heap. By default each thread gets its own, and buffers that one thread
/// fills and another frees leave every heap at its highest level: a restore takes half as much memory again, and is no
/// faster for it. To be called before there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt has no safe wrapper; it only sets a number, and no thread runs yet")]
fn share_one_arena() {
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
