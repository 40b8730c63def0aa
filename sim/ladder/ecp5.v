// Memories of ECP5 devices, from Lattice's "ECP5 and ECP5-5G Memory Usage Guide". Where the guide
// promises no value, these models return one that is surely wrong.

// Memory in look-up tables: 16 rows of WIDTH bits, read at once.
module ecp5_table_ram #(parameter WIDTH = 1, parameter [16*WIDTH-1:0] INIT = 0) (
    input WCK, WRE, input [3:0] WAD, RAD, input [WIDTH-1:0] WD, output [WIDTH-1:0] DO
);
    reg [WIDTH-1:0] rows [0:15];
    integer n;
    initial for (n = 0; n < 16; n = n + 1) rows[n] = INIT[WIDTH * n +: WIDTH];
    always @(posedge WCK) if (WRE) rows[WAD] <= WD;
    assign DO = rows[RAD];
endmodule

// Block RAM: 2048 bytes of 9 bits behind two ports; with 36 bits, port A writes and port B reads.
// A read of a byte that the other port is writing returns its complement. A port with an output
// register (REGISTERED_A, REGISTERED_B) returns what was read a cycle later.
module ecp5_ram #(
    parameter WIDTH_A = 18, WIDTH_B = 18, KEEPS_A = 0, KEEPS_B = 0,
    parameter REGISTERED_A = 0, REGISTERED_B = 0,
    parameter [18431:0] INIT = 0
) (
    input CLK,
    input ENA, WEA, input [13:0] ADA, input [17:0] DIA, output [17:0] DOA,
    input ENB, WEB, input [13:0] ADB, input [17:0] DIB, output [17:0] DOB
);
    wire [17:0] read_a, read_b;
    reg [17:0] last_a, last_b;
    always @(posedge CLK) begin
        last_a <= read_a;
        last_b <= read_b;
    end
    assign DOA = REGISTERED_A ? last_a : read_a;
    assign DOB = REGISTERED_B ? last_b : read_b;
    reg [8:0] rows [0:2047];
    integer n;
    initial for (n = 0; n < 2048; n = n + 1) rows[n] = INIT[9 * n +: 9];
    generate
        if (WIDTH_A == 36) begin : wide
            reg [35:0] q;
            wire collides = ENA && WEA && ADA[13:5] == ADB[13:5];
            assign {read_b, read_a} = q;
            always @(posedge CLK) begin
                if (ENA && WEA) begin
                    if (ADA[0]) rows[{ADA[13:5], 2'd0}] <= DIA[8:0];
                    if (ADA[1]) rows[{ADA[13:5], 2'd1}] <= DIA[17:9];
                    if (ADA[2]) rows[{ADA[13:5], 2'd2}] <= DIB[8:0];
                    if (ADA[3]) rows[{ADA[13:5], 2'd3}] <= DIB[17:9];
                end
                if (ENB)
                    q <= {rows[{ADB[13:5], 2'd3}], rows[{ADB[13:5], 2'd2}],
                          rows[{ADB[13:5], 2'd1}], rows[{ADB[13:5], 2'd0}]} ^ {36{collides}};
            end
        end else begin : narrow
            reg [17:0] qa, qb;
            wire collides = ENA && ENB && (WEA || WEB)
                && ADA[13:4] == ADB[13:4] && (WIDTH_A == 18 || WIDTH_B == 18 || ADA[3] == ADB[3]);
            wire [17:0] a = {rows[{ADA[13:4], 1'b1}], rows[{ADA[13:4], 1'b0}]};
            wire [17:0] b = {rows[{ADB[13:4], 1'b1}], rows[{ADB[13:4], 1'b0}]};
            wire [8:0] byte_a = rows[ADA[13:3]], byte_b = rows[ADB[13:3]];
            assign read_a = qa;
            assign read_b = qb;
            always @(posedge CLK) begin
                if (ENA && WEA) case (WIDTH_A)
                    18: begin
                        if (ADA[0]) rows[{ADA[13:4], 1'b0}] <= DIA[8:0];
                        if (ADA[1]) rows[{ADA[13:4], 1'b1}] <= DIA[17:9];
                    end
                    9: rows[ADA[13:3]] <= DIA[8:0];
                    4: rows[ADA[13:3]][4 * ADA[2] +: 4] <= DIA[3:0];
                    2: rows[ADA[13:3]][2 * ADA[2:1] +: 2] <= DIA[1:0];
                    default: rows[ADA[13:3]][ADA[2:0]] <= DIA[0];
                endcase
                if (ENB && WEB) case (WIDTH_B)
                    18: begin
                        if (ADB[0]) rows[{ADB[13:4], 1'b0}] <= DIB[8:0];
                        if (ADB[1]) rows[{ADB[13:4], 1'b1}] <= DIB[17:9];
                    end
                    9: rows[ADB[13:3]] <= DIB[8:0];
                    4: rows[ADB[13:3]][4 * ADB[2] +: 4] <= DIB[3:0];
                    2: rows[ADB[13:3]][2 * ADB[2:1] +: 2] <= DIB[1:0];
                    default: rows[ADB[13:3]][ADB[2:0]] <= DIB[0];
                endcase
                if (ENA && !(WEA && KEEPS_A)) qa <= {18{collides && WEB}} ^ (
                    WIDTH_A == 18 ? a : WIDTH_A == 9 ? {9'b0, byte_a}
                    : WIDTH_A == 4 ? {14'b0, byte_a[4 * ADA[2] +: 4]}
                    : WIDTH_A == 2 ? {16'b0, byte_a[2 * ADA[2:1] +: 2]}
                    : {17'b0, byte_a[ADA[2:0]]});
                if (ENB && !(WEB && KEEPS_B)) qb <= {18{collides && WEA}} ^ (
                    WIDTH_B == 18 ? b : WIDTH_B == 9 ? {9'b0, byte_b}
                    : WIDTH_B == 4 ? {14'b0, byte_b[4 * ADB[2] +: 4]}
                    : WIDTH_B == 2 ? {16'b0, byte_b[2 * ADB[2:1] +: 2]}
                    : {17'b0, byte_b[ADB[2:0]]});
            end
        end
    endgenerate
endmodule
