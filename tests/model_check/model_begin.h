// From here to model_end.h the standard library's threads are Relacy's.
// A model that asks nothing about the atomics says so with MODEL_PLAIN_ATOMICS.
#ifdef MODEL_PLAIN_ATOMICS
#define atomic model_plain
#else
#define atomic model_atomic
#endif
#define recursive_mutex model_recursive_mutex
#define thread model_thread
#define this_thread model_this_thread
#define steady_clock model_clock
#define spin_pause model::pause
