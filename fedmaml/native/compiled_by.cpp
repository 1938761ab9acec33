// Names the compiler: the last bits of the kernels' results depend on it.

#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "GCC " __VERSION__
#endif

extern "C" const char* compiled_by() { return COMPILER; }
