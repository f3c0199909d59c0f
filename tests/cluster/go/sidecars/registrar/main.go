// Command registrar tells the kubelet of a CSI driver: it asks the driver for its name, and answers the kubelet at a
// socket in the directory of plugin registrations.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type server struct {
	registration.UnimplementedRegistrationServer
	name, endpoint string
	failed         chan string
}

func (s *server) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: s.name, Endpoint: s.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (s *server) NotifyRegistrationStatus(
	_ context.Context, status *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if status.PluginRegistered {
		log.Printf("the kubelet has registered %s", s.name)
	} else {
		s.failed <- status.Error
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	driver := flag.String("csi-address", "/csi/csi.sock", "the driver's socket, here")
	endpoint := flag.String("kubelet-registration-path", "", "the driver's socket, as the kubelet sees it")
	directory := flag.String("plugin-registration-path", "/registration", "where the kubelet looks for plugins")
	flag.Parse()
	name, err := nameOf(*driver)
	if err != nil {
		log.Fatal(err)
	}
	socket := filepath.Join(*directory, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	answering := grpc.NewServer()
	failed := make(chan string, 1)
	registration.RegisterRegistrationServer(answering, &server{name: name, endpoint: *endpoint, failed: failed})
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case reason := <-failed:
			log.Fatalf("the kubelet refused %s: %s", name, reason)
		case <-ended:
			answering.Stop() // removes the socket, whereupon the kubelet forgets the driver
		}
	}()
	log.Printf("%s is announced at %s", name, socket)
	if err := answering.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// nameOf asks the driver, until it answers.
func nameOf(socket string) (string, error) {
	connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	info, err := csi.NewIdentityClient(connection).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return "", fmt.Errorf("the driver at %s does not say its name: %w", socket, err)
	}
	return info.Name, nil
}
