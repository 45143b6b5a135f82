//! The `cairn` program.

fn main() -> std::process::ExitCode {
    #[cfg(target_env = "gnu")]
    bound_the_heap();
    cairn::cli::main()
}

/// Tells glibc to serve all threads from one heap, and to give back what is free. By default each thread gets its own, and
/// buffers that one thread fills and another frees leave every heap at its highest level: a restore takes half as much memory
/// again, and is no faster for it. And the more a program frees at once, the more glibc keeps from then on, up to 64 MiB. To be
/// called before there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt has no safe wrapper; it only sets numbers, and no thread runs yet")]
fn bound_the_heap() {
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}
