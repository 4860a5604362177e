#undef atomic
#undef recursive_mutex
#undef thread
#undef this_thread
#undef steady_clock
#undef spin_pause
