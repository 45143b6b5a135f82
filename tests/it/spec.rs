//! The written format against the program: test vectors made by an independent implementation, and that
//! implementation's reader on real repositories.

// `real` drives the built program; it joins the build with the commands it needs.
// mod real;
mod vectors;
