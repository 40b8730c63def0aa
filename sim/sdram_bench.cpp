// Reads rows through the SDRAM controller as fast as it serves them, and checks their contents.
//
// Argument: a file of 32-bit numbers: for each port, the number of its requests, then two numbers for
// each request, the index of the row and the address of its first word. The first requested row of each
// port is written before. Prints the counts as JSON. Macros: those of sdram.hpp, N_PORTS, ROW_BITS (of
// an index) and ROW_WORDS.
#include <stdio.h>
#include <stdlib.h>

#include <type_traits>
#include <vector>

#include "Vtop.h"
#include "sdram.hpp"
#include "verilated.h"

namespace {

struct Request {
    uint32_t row, address;
};

// Bits [32 * n, 32 * n + 32) of a port of any width.
template <typename T>
uint32_t get_word(const T& port, int n) {
    if constexpr (std::is_integral_v<T>) {
        return n < 2 ? uint64_t(port) >> 32 * n : 0;
    } else {
        return port[n];
    }
}
template <typename T>
void set_word(T& port, int n, uint32_t value) {
    if constexpr (std::is_integral_v<T>) {
        const uint64_t mask = uint64_t(0xffffffff) << 32 * n;
        port = (uint64_t(port) & ~mask) | uint64_t(value) << 32 * n;
    } else {
        port[n] = value;
    }
}
template <typename T>
uint32_t get_bits(const T& port, int first, int n_bits) {
    uint64_t bits = get_word(port, first / 32);
    if (first % 32 + n_bits > 32) bits |= uint64_t(get_word(port, first / 32 + 1)) << 32;
    return bits >> first % 32 & ((uint64_t(1) << n_bits) - 1);
}
template <typename T>
void set_bits(T& port, int first, int n_bits, uint32_t value) {
    for (int n = 0; n < n_bits; n++) {
        const int bit = first + n;
        const uint32_t word = get_word(port, bit / 32) & ~(1u << bit % 32);
        set_word(port, bit / 32, word | (value >> n & 1) << bit % 32);
    }
}

}  // namespace

int main(int, char** argv) {
    std::vector<Request> requests[N_PORTS];
    FILE* file = fopen(argv[1], "rb");
    if (!file) return perror(argv[1]), 1;
    for (auto& of_port : requests) {
        uint32_t n = 0;
        if (fread(&n, sizeof n, 1, file) != 1) return 1;
        of_port.resize(n);
        if (fread(of_port.data(), sizeof(Request), n, file) != n) return 1;
    }
    fclose(file);

    Vtop device;
    Sdram sdram;
    unsigned long cycle = 0, start = 0, end = 0, transfers = 0, n_wrong = 0, n_words = 0;
    size_t asked[N_PORTS] = {}, got[N_PORTS] = {};
    int n_written = 0;
    uint64_t refreshes = 0;
    bool done = false;
    device.rst = 0;
    device.row_ready = -1;
    while (!done && cycle < 100'000'000) {
        device.clk = 0;
        const bool writes = n_written < N_PORTS;
        device.write_valid = writes;
        if (writes) {
            device.write_port = n_written;
            device.write_row = requests[n_written].empty() ? 0 : requests[n_written][0].row;
            for (int n = 0; n < ROW_WORDS * SDRAM_DATA_BITS / 32; n++) {
                set_word(device.write_data, n, 0x9e3779b9u * (n + 1) ^ n_written);
            }
        }
        uint32_t valid = 0;
        for (int p = 0; p < N_PORTS; p++) {
            if (writes || asked[p] == requests[p].size()) continue;
            valid |= 1u << p;
            set_bits(device.request_row, p * ROW_BITS, ROW_BITS, requests[p][asked[p]].row);
        }
        device.request_valid = valid;
        device.eval();
        if (writes && device.write_ready && ++n_written == N_PORTS) {
            start = cycle;
            refreshes = sdram.n_refreshes;
        }
        done = !writes;
        for (int p = 0; p < N_PORTS; p++) {
            if (valid & device.request_ready & 1u << p) asked[p]++;
            if (device.row_valid & 1u << p) {
                const Request& request = requests[p][got[p]++];
                for (int n = 0; n < ROW_WORDS; n++) {
                    const int first = (p * ROW_WORDS + n) * SDRAM_DATA_BITS;
                    n_wrong += get_bits(device.row, first, SDRAM_DATA_BITS) != sdram.words[request.address + n];
                    n_words++;
                }
                end = cycle;
            }
            done &= got[p] == requests[p].size();
        }
        if (!writes) transfers += device.transfers;
        const Sdram::Word bus = sdram.tick({
            .clk_en = bool(device.pins___05Fclk_en),
            .cs_n = bool(device.pins___05Fcs_n),
            .ras_n = bool(device.pins___05Fras_n),
            .cas_n = bool(device.pins___05Fcas_n),
            .we_n = bool(device.pins___05Fwe_n),
            .ba = device.pins___05Fba,
            .a = device.pins___05Fa,
            .dq_o = Sdram::Word(device.pins___05Fdq_o),
            .dq_oe = bool(device.pins___05Fdq_oe),
            .dqm = device.pins___05Fdqm,
        });
        device.clk = 1;
        device.eval();
        device.pins___05Fdq_i = bus;
        cycle++;
    }
    printf(
        "{\"done\": %s, \"cycles\": %lu, \"words\": %lu, \"transfers\": %lu, \"wrong_words\": %lu, "
        "\"violations\": %llu, \"refreshes\": %llu}\n",
        done ? "true" : "false", end - start, n_words, transfers, n_wrong,
        (unsigned long long)sdram.n_violations, (unsigned long long)(sdram.n_refreshes - refreshes));
    return 0;
}
