// Memories of Gowin devices, from the "Gowin BSRAM & SSRAM User Guide". Where the guide promises no
// value, these models return one that is surely wrong.

// Memory in look-up tables: 16 rows of 4 bits, read at once.
module gowin_table_ram #(parameter [63:0] INIT = 0) (
    input CLK, WRE, input [3:0] WAD, RAD, DI, output [3:0] DO
);
    reg [3:0] rows [0:15];
    integer n;
    initial for (n = 0; n < 16; n = n + 1) rows[n] = INIT[4 * n +: 4];
    always @(posedge CLK) if (WRE) rows[WAD] <= DI;
    assign DO = rows[RAD];
endmodule

// Block RAM of 2048 bytes of 9 bits with two ports, each of 9 or 18 bits. The bits 0 and 1 of the
// address of a port of 18 bits enable its bytes. A read of a byte that the other port is writing,
// and the output of a port that writes, are wrong.
module gowin_dual_port #(parameter WIDTH_A = 9, WIDTH_B = 9) (
    input CLK,
    input ENA, WREA, input [13:0] ADA, input [17:0] DIA, output [17:0] DOA,
    input ENB, WREB, input [13:0] ADB, input [17:0] DIB, output [17:0] DOB
);
    reg [8:0] rows [0:2047];
    reg [17:0] qa, qb;
    assign DOA = qa;
    assign DOB = qb;
    wire collides = ENA && ENB && ADA[13:4] == ADB[13:4]
        && (WIDTH_A == 18 || WIDTH_B == 18 || ADA[3] == ADB[3]);
    always @(posedge CLK) begin
        if (ENA && WREA) begin
            if (WIDTH_A == 9) rows[ADA[13:3]] <= DIA[8:0];
            else begin
                if (ADA[0]) rows[{ADA[13:4], 1'b0}] <= DIA[8:0];
                if (ADA[1]) rows[{ADA[13:4], 1'b1}] <= DIA[17:9];
            end
        end
        if (ENB && WREB) begin
            if (WIDTH_B == 9) rows[ADB[13:3]] <= DIB[8:0];
            else begin
                if (ADB[0]) rows[{ADB[13:4], 1'b0}] <= DIB[8:0];
                if (ADB[1]) rows[{ADB[13:4], 1'b1}] <= DIB[17:9];
            end
        end
        if (ENA) qa <= {18{WREA || (collides && WREB)}}
            ^ (WIDTH_A == 9 ? {9'b0, rows[ADA[13:3]]}
                            : {rows[{ADA[13:4], 1'b1}], rows[{ADA[13:4], 1'b0}]});
        if (ENB) qb <= {18{WREB || (collides && WREA)}}
            ^ (WIDTH_B == 9 ? {9'b0, rows[ADB[13:3]]}
                            : {rows[{ADB[13:4], 1'b1}], rows[{ADB[13:4], 1'b0}]});
    end
endmodule

// Block RAM of 512 rows of 36 bits: port A writes the bytes that the lowest bits of its address
// enable, port B reads.
module gowin_write_and_read (
    input CLK,
    input ENA, input [13:0] ADA, input [35:0] DI,
    input ENB, input [13:0] ADB, output reg [35:0] DO
);
    reg [35:0] rows [0:511];
    wire [35:0] mask = {{9{ADA[3]}}, {9{ADA[2]}}, {9{ADA[1]}}, {9{ADA[0]}}};
    wire collides = ENA && ADA[13:5] == ADB[13:5];
    always @(posedge CLK) begin
        if (ENA) rows[ADA[13:5]] <= (rows[ADA[13:5]] & ~mask) | (DI & mask);
        if (ENB) DO <= rows[ADB[13:5]] ^ {36{collides}};
    end
endmodule

// Block RAM of 2048 bytes of 9 bits with one port, whose output is wrong after a write.
module gowin_single_port (
    input CLK, EN, WRE, input [13:0] AD, input [35:0] DI, output [35:0] DO
);
    reg [8:0] rows [0:2047];
    reg [8:0] q;
    assign DO = {27'b0, q};
    always @(posedge CLK) if (EN) begin
        if (WRE) rows[AD[13:3]] <= DI[8:0];
        q <= rows[AD[13:3]] ^ {9{WRE}};
    end
endmodule
