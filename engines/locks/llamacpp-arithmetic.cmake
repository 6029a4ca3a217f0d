# Read at the beginning of ggml's project: what computes is optimised all the way.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
