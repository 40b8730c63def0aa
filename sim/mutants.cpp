// The virtual board, whose netlist asks for the number of the mutant that is active (see mutants.py).
#include <cstdlib>

#include "virtual_board.cpp"

extern "C" int spikefold_mutant() {
    const char* number = std::getenv("SPIKEFOLD_MUTANT");
    return number ? std::atoi(number) : 0;
}
