//! What makes objects real: the node, which runs the pods, and the controllers.

mod scheduler;
