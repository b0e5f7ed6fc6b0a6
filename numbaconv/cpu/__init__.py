"""CPU kernels: one macrokernel over positions, and panel kernels emitted as LLVM IR."""
