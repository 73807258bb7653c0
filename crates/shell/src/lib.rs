//! PowerShell syntax for Nestling: the language, the frame of cmdlets and the formatting of their output.

pub mod lang;
