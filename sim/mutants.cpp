// The virtual board, whose netlist asks for the number of the mutant that is active (see mutants.py).
// The process ends when it has taken more than a given time, since a mutant may be busy forever.
#include <sys/resource.h>

#include <cstdlib>

#include "virtual_board.cpp"

extern "C" int spikefold_mutant() {
    if (const char* seconds = std::getenv("SPIKEFOLD_MUTANT_CPU_S")) {
        const rlim_t limit = std::atoi(seconds);
        const rlimit both = {limit, limit};
        setrlimit(RLIMIT_CPU, &both);
    }
    const char* number = std::getenv("SPIKEFOLD_MUTANT");
    return number ? std::atoi(number) : 0;
}
