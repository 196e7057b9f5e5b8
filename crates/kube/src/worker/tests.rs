mod adopt;
mod lifecycle;
mod probes;
mod random;
mod sim;
mod stopping;
