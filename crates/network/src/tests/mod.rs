//! Tests that need more than one module: the plan against a simulated kernel, and everything against
//! the real one in network namespaces that exist for one test only.

mod live;
mod namespace;
mod sample;
mod simulated;
mod traffic;
